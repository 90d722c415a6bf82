"""Fuzz targets: each reads untrusted bytes, and may raise only saebench's errors."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from fuzz_inputs import bytes_like, json_like
from hypothesis import strategies as st
from shard_targets import outcomes, read_outcomes, read_shard, shard

from saebench.cli.stored import known_facts
from saebench.compare.sides import sides_of_file
from saebench.data.documents import open_documents
from saebench.data.prompts import open_prompts
from saebench.errors import SaebenchError
from saebench.gates.thresholds import parse_rule, read_thresholds
from saebench.options import Overrides
from saebench.properties import metric_names
from saebench.records.ranking import rank
from saebench.report.exports.junit import to_junit
from saebench.report.exports.measurements import to_csv
from saebench.report.exports.model_card import to_model_card
from saebench.report.exports.sae_bench import to_sae_bench
from saebench.report.exports.sae_lens import to_sae_lens
from saebench.report.markdown import to_markdown
from saebench.report.page.run_page import run_page
from saebench.report.tables.board_tables import board_table, published_tables
from saebench.report.tables.fit_tables import repair_lines, repair_table
from saebench.report.tables.rich_tables import rich_table
from saebench.report.terminal import render
from saebench.store.json_files import dump_record, parse_run, read_repair
from saebench.store.leaderboard import build, dump_leaderboard, read_leaderboard
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects


@dataclass(frozen=True)
class Target:
    """Something that reads a stranger's bytes.

    Attributes:
        read: reads them; what it raises beside our errors is a finding.
        inputs: what hypothesis tries.
        share: how many of a full run's inputs, in thousands.
    """

    read: Callable[[bytes], object]
    inputs: st.SearchStrategy[bytes]
    share: float


def survives(target: Target, content: bytes) -> bool:
    """Return whether the target took the content; False where it refused it as it should."""
    try:
        target.read(content)
    except SaebenchError:
        return False
    return True


@cache
def room() -> Path:
    """Return a directory for the files that targets read; files are written over."""
    return Path(mkdtemp(prefix="saebench-fuzz-"))


def _file(name: str, content: bytes) -> Path:
    path = room() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _judgeable(directory: Path) -> None:
    """Do with a directory what a run does before it measures."""
    (reference,) = find_subjects([str(directory)])
    reference.metadata(Overrides())
    subject = load_subject(reference, overrides=Overrides(), device="cpu")
    subject.reconstruct(torch.zeros(2, subject.d_in))


# SAE directories: one tiny SAE of each layout, one of whose files is the input.


@cache
def sae_files(layout: str) -> dict[str, bytes]:
    """Return the files of a tiny SAE, by name."""
    return {"saelens": _saelens, "topk": _topk, "sparsify": _sparsify, "ae": _dictionary,
            "gemma": _gemma, "llama": _llama}[layout]()  # fmt: skip


FOLDERS = {"gemma": "gemma-scope-2b-pt-res/layer_0/width_4k/average_l0_7", "sparsify": "layers.0"}


def _in_directory(layout: str, file: str) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        here = FOLDERS.get(layout, "sae")
        for name, whole in sae_files(layout).items():
            _file(f"{layout}-{file.replace('/', '-')}/{here}/{name}", whole)
        root = _file(f"{layout}-{file.replace('/', '-')}/{here}/{file}", content)
        _judgeable(root.parents[file.count("/")])

    return read


def _weights(transposed: bool = False, **names: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) / 4 for name, shape in names.items()}


def _saved(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save(tensors)


STANDARD: dict[str, Any] = {
    "d_in": 4, "d_sae": 8, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
    "normalize_activations": "none", "reshape_activations": "none", "architecture": "standard",
    "metadata": {
        "sae_lens_version": "6.54.0", "model_name": "m", "hook_name": "blocks.0.hook_resid_pre",
        "hook_head_index": None, "context_size": 16, "prepend_bos": True,
    },
}  # fmt: skip
TOPK = STANDARD | {"architecture": "topk", "k": 2, "rescale_acts_by_decoder_norm": True}
ENCODER = {"W_enc": (4, 8), "W_dec": (8, 4), "b_enc": (8,), "b_dec": (4,)}


def _saelens() -> dict[str, bytes]:
    return {"cfg.json": json.dumps(STANDARD).encode(),
            "sae_weights.safetensors": _saved(_weights(**ENCODER))}  # fmt: skip


def _topk() -> dict[str, bytes]:
    return _saelens() | {"cfg.json": json.dumps(TOPK).encode()}


def _sparsify() -> dict[str, bytes]:
    config = {"d_in": 4, "num_latents": 8, "expansion_factor": 2, "k": 2, "signed": False,
            "activation": "topk", "transcode": False, "skip_connection": False}  # fmt: skip
    shapes = {"encoder.weight": (8, 4), "W_dec": (8, 4), "encoder.bias": (8,), "b_dec": (4,)}
    return {"cfg.json": json.dumps(config).encode(), "sae.safetensors": _saved(_weights(**shapes))}


def _dictionary() -> dict[str, bytes]:
    trainer = {"dict_class": "AutoEncoder", "activation_dim": 4, "dict_size": 8, "layer": 0,
               "lm_name": "m", "submodule_name": "resid_post_layer_0"}  # fmt: skip
    shapes = {"encoder.weight": (8, 4), "decoder.weight": (4, 8), "encoder.bias": (8,)}
    data = io.BytesIO()
    torch.save(_weights(**shapes, bias=(4,)), data)
    config = {"trainer": trainer, "buffer": {"ctx_len": 16}}
    return {"config.json": json.dumps(config).encode(), "ae.pt": data.getvalue()}


def _gemma() -> dict[str, bytes]:
    data = io.BytesIO()
    shapes = {"w_enc": (4, 8), "w_dec": (8, 4), "b_enc": (8,), "b_dec": (4,), "threshold": (8,)}
    np.savez(data, **{n: t.numpy() for n, t in _weights(**shapes).items()})  # pyright: ignore
    return {"params.npz": data.getvalue()}


def _llama() -> dict[str, bytes]:
    config = {"d_model": 4, "d_sae": 8, "jump_relu_threshold": 0.1,
            "dataset_average_activation_norm": {"in": 2.0},
            "hook_point_in": "blocks.0.hook_resid_post"}  # fmt: skip
    shapes = {"encoder.weight": (8, 4), "decoder.weight": (4, 8), "encoder.bias": (8,)}
    weights = _saved(_weights(**shapes, **{"decoder.bias": (4,)}))
    return {
        "hyperparams.json": json.dumps(config).encode(),
        "checkpoints/final.safetensors": weights,
    }


# What a run writes, and others read.


def _read_result(content: bytes) -> None:
    run = parse_run(content.decode("utf-8", "replace"), where="run.json")
    for width in (40, 100):
        render(run, width=width)
    for convert in (to_csv, to_markdown, to_junit, to_sae_lens):
        convert(run)
    if run.run.is_whole:
        to_model_card(run)  # which states a verdict on the whole
    for sae in run.saes:
        to_sae_bench(run, sae)
    dump_record(run).encode(errors="backslashreplace")
    run_page(run)


def _read_baseline(content: bytes) -> None:
    path = _stored(_with_its_digest(content))
    sides_of_file(path)
    board = build(path.parents[2], known_facts())
    dump_leaderboard(board)


def _with_its_digest(content: bytes) -> bytes:
    """Return a baseline's JSON whose digest is right: an altered one is refused for that alone."""
    try:
        config = json.loads(content)
        digest = hashlib.sha256(json.dumps(config["cases"], sort_keys=True).encode()).hexdigest()
        config["cases_sha256"] = digest
        return json.dumps(config).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return content


def _read_sums(content: bytes) -> None:
    config = json.loads(baseline_files()[0])
    config["arrays"]["sha256"] = hashlib.sha256(content).hexdigest()
    sides_of_file(_stored(json.dumps(config).encode(), sums=content))


def _stored(content: bytes, *, sums: bytes | None = None) -> Path:
    whole, arrays = baseline_files()
    folder = "baselines/toy/blocks.1.hook_resid_pre"
    _file(f"{folder}/{json.loads(whole)['arrays']['file']}", arrays if sums is None else sums)
    return _file(f"{folder}/one@6f6e656f.json", content)


@cache
def baseline_files() -> tuple[bytes, bytes]:
    """Return a baseline's JSON and its sums."""
    from stored import store

    path = store(room() / "made", "one", sequences=4)
    (sums,) = path.parent.glob("*.npz")
    return path.read_bytes(), sums.read_bytes()


def _read_leaderboard(content: bytes) -> None:
    for each in read_leaderboard(_file("leaderboard.json", content)).boards:
        for metric in each.metrics:
            rich_table(board_table(each, rank(each, metric), rows=each.rows), width=80)


def _leaderboard() -> bytes:
    from stored import store

    root = room() / "boards"
    shutil.rmtree(root, ignore_errors=True)
    for name, seed in (("one", 1), ("two", 2)):
        store(root, name, seed=seed, sequences=4)
    return dump_leaderboard(build(root, known_facts()))


def _read_published(content: bytes) -> None:
    from saebench.store.leaderboard import read_published

    _file("board/published/one.json", content)
    for table in published_tables(read_published(room() / "board")):
        rich_table(table, width=80)


def _read_repair(content: bytes) -> None:
    record = read_repair(_file("repair.json", content))
    rich_table(repair_table(record), width=80)
    list(repair_lines(record))


def _repair() -> bytes:
    from made_repair import make_repair

    from saebench.store.json_files import dump_record

    return dump_record(make_repair()).encode()


def _result() -> bytes:
    from full_run import full_run

    return dump_record(full_run("one", "two")).encode()


# What a user gives.


def _read_rule(content: bytes) -> None:
    parse_rule(content.decode("utf-8", "replace"))


def _read_texts(content: bytes) -> None:
    for name in ("texts.jsonl", "texts.txt", "texts.parquet"):
        if content:
            list(open_documents(str(_file(name, content))))


def _read_prompts(content: bytes) -> None:
    list(open_prompts(str(_file("prompts.jsonl", content))))


RULES = (b"kl_gap.ratio[eps_random]<=2", b"fidelity.kl in [0, 0.1]", b"fidelity.kl:+5%")
TEXTS = (
    b'{"text": "once upon a time"}\n{"text": "\xc3\xa9t\xc3\xa9 \\ud83d\\ude00"}\n',
    b'{"text": "\\ud800"}\n',
)
PROMPTS = (
    b'{"prompt": "a b", "answer": "c", "options": ["c", "d"]}\n{"text": "one two three"}\n',
    b'{"sentences": ["a"], "question": "b XXXXX c", "answer": "d", "options": ["d", "e"]}\n',
)


@cache
def targets() -> dict[str, Target]:
    """Return every target by name."""
    from saebench.store.environment import baselines_dir

    metrics = metric_names()
    toml = (baselines_dir() / "thresholds.toml").read_bytes()
    small = b'schema_version = 1\n[fidelity]\ngates = [{ rule = "fidelity.kl<=1", why = "x" }]\n'
    published = (baselines_dir() / "published" / "gpt2-small-kl-gap.json").read_bytes()
    return {
        "thresholds": Target(
            lambda c: read_thresholds(_file("t.toml", c), metrics=metrics),
            bytes_like(small, toml), 2.5,
        ),
        "rule": Target(_read_rule, bytes_like(*RULES), 3),
        "baseline": Target(_read_baseline, json_like(baseline_files()[0]), 2.5),
        "sums": Target(_read_sums, bytes_like(baseline_files()[1]), 1),
        "result": Target(_read_result, json_like(_result()), 1.5),
        "leaderboard": Target(_read_leaderboard, json_like(_leaderboard()), 1.5),
        "published": Target(_read_published, json_like(published), 0.5),
        "repair": Target(_read_repair, json_like(_repair()), 0.5),
        "texts": Target(_read_texts, bytes_like(*TEXTS), 1),
        "prompts": Target(_read_prompts, bytes_like(*PROMPTS), 1),
        "outcomes": Target(read_outcomes, bytes_like(outcomes()), 0.3),
        "shard": Target(read_shard, bytes_like(shard()), 0.5),
        **_layouts(),
    }  # fmt: skip


def _layouts() -> dict[str, Target]:
    """Return a target for each file of each layout."""
    shares = {("saelens", "cfg.json"): 3, ("topk", "cfg.json"): 1,
              ("saelens", "sae_weights.safetensors"): 1.5}  # fmt: skip
    found = {}
    for layout in ("saelens", "topk", "sparsify", "ae", "gemma", "llama"):
        for file, whole in sae_files(layout).items():
            inputs = json_like(whole) if file.endswith(".json") else bytes_like(whole)
            share = shares.get((layout, file), 0.4)
            name = f"{layout}-{file.replace('/', '-')}"
            found[name] = Target(_in_directory(layout, file), inputs, share)
    return found
