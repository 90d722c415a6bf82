"""The options of a pytest run: which there are, and what was given of them.

No import of pytest, and nothing heavy: every pytest run of the environment declares them.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--sae-model": ("host model, where the SAE's metadata is not enough: directory or name", {}),
    "--sae-dataset": ("texts: .jsonl, .txt, .parquet, a saved data set, or a hub NAME[:SPLIT]", {}),
    "--sae-cloze": ("cloze prompts: a file, a saved data set, lambada_openai, lambada, cbt_cn", {}),
    "--sae-profile": ("how much data by default: smoke, standard (default) or release", {}),
    "--sae-sequences": ("number of sequences (default: the profile's)", {"type": int}),
    "--sae-prompts": ("number of cloze prompts (default: the profile's)", {"type": int}),
    "--sae-context": ("tokens in each (default: the SAE's training context)", {"type": int}),
    "--sae-batch-size": ("sequences at once (default: chosen)", {"type": int}),
    "--sae-position": (
        "of the token substituted alone: single_token, kl_gap[single] (default 32)",
        {"type": int},
    ),
    "--sae-draw-position": (
        "of the token substituted by many random errors (default 48)",
        {"type": int},
    ),
    "--sae-draws": ("how many random errors (default: the profile's, 50 or 500)", {"type": int}),
    "--sae-seed": ("root seed of all noise (default 0)", {"type": int}),
    "--sae-device": ("torch device (default: cuda where there is one, else cpu)", {}),
    "--sae-dtype": ("of the model: float32 (default), bfloat16, float16; tf32 on a GPU", {}),
    "--sae-packing": ("documents (default): one a sequence; packed: joined and cut", {}),
    "--sae-hook": ("the SAE's hook, where its metadata has none", {}),
    "--sae-hook-out": ("a transcoder's output hook, where its metadata has none", {}),
    "--sae-training-context": ("its training context, where its metadata has none", {"type": int}),
    "--sae-prepend-bos": ("true or false: BOS first, where its metadata does not say", {}),
    "--sae-norm-factor": (
        "what its training scaled activations with, where its files do not say: a number, estimate "
        "from the texts, or folded where the weights hold it",
        {},
    ),
    "--sae-interventions": ("comma-separated baselines of kl_gap (default: all)", {}),
    "--sae-thresholds": ("threshold file (default: baselines/thresholds.toml)", {}),
    "--sae-baseline": (
        "hold the run against these: a baseline file, a directory of them, a git ref, REF:PATH",
        {},
    ),
    "--sae-inconclusive": ("what an undecided gate does: fail (default) or warn", {}),
    "--sae-json": ("write the result file here", {}),
    "--sae-md": ("write a Markdown summary here", {}),
    "--sae-engine": ("where shards are measured: local (default) or ray", {}),
    "--sae-workers": ("processes, or Ray actors, that share the sequences", {"type": int}),
    "--sae-ray-address": ("of a running Ray cluster, or auto (default: one on this machine)", {}),
    "--sae-run-dir": ("keep finished shards here: the same command goes on where it stopped", {}),
    "--sae-rerun": ("shards of the run directory: missing (default), failed, always, never", {}),
    "--sae-shard-sequences": ("sequences of a shard (default: 8192 tokens' worth)", {"type": int}),
    "--sae-worker-threads": ("threads of each worker (default 1)", {"type": int}),
    "--sae-worker-gpus": ("GPUs of each Ray worker, 0.25 for a quarter", {}),
    "--sae-html": ("write the report here: one page for a browser, which needs no network", {}),
}


FLAGS = {
    "--sae-cost": "time the cost cases too (else only where nothing but cost is selected: -k cost)",
    "--sae-stop-early": "measure in rounds of sequences; end where every primary gate is decided",
    "--sae-update-baselines": "store what this run measured as baselines, printing old → new",
    "--sae-update-new": "store baselines of cases that have none yet",
}


def declare(parser: Any) -> None:
    """Register the options with pytest's parser; each has an environment twin, SAEBENCH_…."""
    group = parser.getgroup("saebench", "release gate for sparse autoencoders (saebench)")
    group.addoption(
        "--sae",
        action="append",
        metavar="SPEC",
        help="an SAE to judge, repeatable: a SAELens directory, a glob of them, "
        "release:sae_id, or org/repo:path",
    )
    group.addoption(
        "--sae-fail-on",
        action="append",
        metavar="RULE",
        help="a further gate, repeatable: 'kl_gap.ratio[eps_random]<=2', 'fidelity.kl in [0,0.1]'",
    )
    group.addoption(
        "--sae-score-bos",
        action="store_true",
        default=None,
        help="substitute and score position 0 and special tokens too",
    )
    for name, about in FLAGS.items():
        group.addoption(name, action="store_true", default=None, help=about)
    for name, (about, extra) in OPTIONS.items():
        group.addoption(name, metavar="X", default=None, help=about, **extra)


def given_options(config: Any) -> dict[str, Any]:
    """Return the options that were given: command line over environment over [tool.saebench].

    Args:
        config: pytest's.

    Raises:
        TOMLDecodeError: where pyproject.toml cannot be read.
    """
    listed = {"sae": "--sae", "sae_fail_on": "--sae-fail-on", "sae_score_bos": "--sae-score-bos"}
    listed |= {name[2:].replace("-", "_"): name for name in FLAGS}
    listed |= {name[2:].replace("-", "_"): name for name in OPTIONS}
    table = _project_table(config.rootpath)
    known = {name.removeprefix("--sae-").removeprefix("--") for name in listed.values()}
    found: dict[str, Any] = {}
    if set(table) - known:
        found["unknown"] = (sorted(set(table) - known)[0], sorted(known))
    for key, option in listed.items():
        short = "sae" if option == "--sae" else key.removeprefix("sae_")
        twin = "SAEBENCH_" + short.upper()
        value = config.getoption(option)
        if value is None:
            value = os.environ.get(twin, table.get(short.replace("_", "-")))
        if value is not None:
            found[short] = value
    return found


def _project_table(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    if not path.is_file():
        return {}
    return tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("saebench", {})
