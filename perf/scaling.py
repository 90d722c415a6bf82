"""`python -m perf.scaling`: one worker against two; cost against tokens and SAEs; driver memory.

A run of GPT-2's size takes minutes, so this uses a smaller model with a run of a minute or more.
Figures are ratios of whole runs, each in a process of its own, start-up included. No workers are
pytest's own process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parent / "benchmarks"
LAYERS, WIDTH, VOCAB, CONTEXT, FEATURES, ACTIVE = 8, 384, 8192, 128, 4096, 32


@dataclass(frozen=True)
class Timed:
    """One run.

    Attributes:
        workers: processes that measured; 0 is pytest's own.
        sequences: measured.
        saes: measured.
        engine: local or ray.
        seconds: of the whole run, from the command to its end.
        starting: of that, until the first pass over the corpus was done: imports, model, SAEs.
        measuring: of that, from then to the last shard.
        driver_mb: the most memory that the process which shares out held.
        shards_mb: what was written.
    """

    engine: str
    workers: int
    sequences: int
    saes: int
    seconds: float
    starting: float
    measuring: float
    driver_mb: float
    shards_mb: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m perf.scaling", description=__doc__)
    parser.add_argument("--sequences", type=int, default=256, help="of the base run")
    parser.add_argument("--engines", nargs="+", default=["local", "ray"])
    parser.add_argument("--growth", type=int, default=8, help="how much more, in tokens and SAEs")
    parser.add_argument("--times", type=int, default=1, help="repeat the runs of one and two")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "scaling.json")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        _make_world(root, saes=options.growth, sequences=options.sequences)
        n, some = options.sequences, max(16, options.sequences // options.growth)
        plan = [("local", 0, n, 1)] if "local" in options.engines else []
        plan += [(engine, workers, n, 1) for engine in options.engines for workers in (1, 2)]
        plan *= options.times
        if options.growth > 1:
            grown = [(some, 1), (some * options.growth, 1), (some, options.growth)]
            plan += [("local", 1, *each) for each in grown if ("local", 1, *each) not in plan]
        found = []
        for engine, workers, sequences, saes in plan:
            found.append(_timed(root, engine, workers, sequences, saes))
            Console(stderr=True).print(found[-1])
    Console().print(_table(found))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return 0


def _make_world(root: Path, *, saes: int, sequences: int) -> None:
    """Save a random GPT-2, a tokenizer, SAEs on it and texts."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    generator = torch.Generator().manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=6,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(root / "model")
    words = {"<s>": 0} | {f"w{i}": i for i in range(1, VOCAB)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", unk_token="<s>"
    ).save_pretrained(root / "model")
    ids = torch.randint(1, VOCAB, (sequences, CONTEXT), generator=generator)
    rows = ({"text": " ".join(f"w{i}" for i in row)} for row in ids.tolist())
    (root / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(saes):
        told = SAEMetadata(
            model_name=str(root / "model"), hook_name="blocks.4.hook_resid_pre",
            context_size=CONTEXT, prepend_bos=True,
        )  # fmt: skip
        sae = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=FEATURES, k=ACTIVE, metadata=told))
        with torch.no_grad():
            rows = torch.randn(FEATURES, WIDTH, generator=generator)
            sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
            sae.W_enc.copy_(sae.W_dec.T)
        sae.save_model(root / f"sae{number}")


def _timed(root: Path, engine: str, workers: int, sequences: int, saes: int) -> Timed:
    with tempfile.TemporaryDirectory() as directory:
        run, result = Path(directory), Path(directory) / "result.json"
        command = [
            sys.executable, "-m", "pytest", str(BENCHMARKS), "-q", "--sae-dataset",
            str(root / "texts.jsonl"), "--sae-engine", engine, "--sae-worker-threads", "1",
            "--sae-sequences", str(sequences), "--sae-run-dir", str(run), "--sae-inconclusive",
            "warn", "-k", "kl_gap and not single", "--sae-shard-sequences", "16",
            "--sae-json", str(result),
        ]  # fmt: skip
        command += ["--sae-workers", str(workers)] if workers else []
        for number in range(saes):
            command += ["--sae", str(root / f"sae{number}")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        # Else every process compiles saebench anew, which it does once where it is installed.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        began = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        peak = _Peak(process.pid)
        process.wait()
        seconds = time.time() - began
        files = sorted(run.glob("shards/*"), key=lambda file: file.stat().st_mtime)
        if process.returncode not in (0, 1) or len(files) < 2:
            raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
        if any(case["error"] for case in json.loads(result.read_text())["cases"]):
            raise RuntimeError(f"something could not be measured: {' '.join(command)}")
        times = [file.stat().st_mtime for file in files]
        written = sum(file.stat().st_size for file in files)
    return Timed(
        engine,
        workers,
        sequences,
        saes,
        seconds=seconds,
        starting=times[0] - began,
        measuring=times[-1] - times[0],
        driver_mb=peak.most / 1e6,
        shards_mb=written / 1e6,
    )


class _Peak:
    """Watches one process' memory."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._process = psutil.Process(pid)
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        try:
            while True:
                self.most = max(self.most, self._process.memory_info().rss)
                time.sleep(0.1)
        except psutil.NoSuchProcess:
            return


def _table(found: Sequence[Timed]) -> Table:
    table = Table(
        "engine", "workers", "sequences", "SAEs", "whole run s", "starting s", "measuring s",
        "driver MB", "written MB", title="scaling",
    )  # fmt: skip
    for each in found:
        table.add_row(
            each.engine, str(each.workers), str(each.sequences), str(each.saes),
            f"{each.seconds:.1f}", f"{each.starting:.1f}", f"{each.measuring:.1f}",
            f"{each.driver_mb:.0f}", f"{each.shards_mb:.1f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(main())
