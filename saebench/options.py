"""The options of a pytest run: which there are, and what was given of them.

No import of pytest, and nothing heavy: every pytest run of the environment declares them.
"""

import operator
import os
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from saebench.errors import OptionError, nearest

SHORTEST_CONTEXT = 3  # position 0, one token to score, and its target
FOLDED, ESTIMATE = "folded", "estimate"


@dataclass(frozen=True)
class Overrides:
    """What the user says about an SAE where its metadata does not, or says it wrong.

    ``norm_factor`` is what training multiplied activations with: ``folded`` where the weights hold
    it already, ``estimate`` to find it on the run's own texts, or the number.

    Raises:
        OptionError: for another norm_factor.
    """

    hook: str | None = None
    training_context: int | None = None
    prepend_bos: bool | None = None
    hook_out: str | None = None
    norm_factor: str | float | None = None

    def __post_init__(self) -> None:
        """Take the factor for a number where it is one."""
        factor = self.norm_factor
        if factor is None or factor in (FOLDED, ESTIMATE):
            return
        try:
            number = float(factor) if not isinstance(factor, bool) else 0.0
        except (TypeError, ValueError):
            number = 0.0
        if not 0 < number < float("inf"):
            raise OptionError(
                f"--sae-norm-factor: expected {FOLDED}, {ESTIMATE} or a number above 0, found "
                f"{factor!r}"
            )
        object.__setattr__(self, "norm_factor", number)


class Packing(StrEnum):
    """How documents become sequences."""

    DOCUMENTS = "documents"
    PACKED = "packed"


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
    "--sae-bos-token": (
        "the token, or its id, that sequences begin with (default: BOS, else EOS), for SAEs "
        "trained with BOS first",
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
    "--sae-update-baselines": "store what this run measured as baselines, printing old -> new",
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
        "release:sae_id, or org/repo:path; NAME=SPEC names it",
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


DTYPES = ("float32", "tf32", "bfloat16", "float16")


class Profile(StrEnum):
    """How much data a run takes where nothing says so."""

    SMOKE = "smoke"
    STANDARD = "standard"
    RELEASE = "release"


SEQUENCES = {Profile.SMOKE: 64, Profile.STANDARD: 512, Profile.RELEASE: 16_384}
DRAWS = {Profile.SMOKE: 50, Profile.STANDARD: 500, Profile.RELEASE: 500}
DRAWN_SEQUENCES = {Profile.SMOKE: 16, Profile.STANDARD: 64, Profile.RELEASE: 512}
PROMPTS = {Profile.SMOKE: 100, Profile.STANDARD: 1000, Profile.RELEASE: 1000}
LEAST = {
    "sequences": 1,
    "prompts": 1,
    "context": SHORTEST_CONTEXT,
    "batch_size": 1,
    "position": 0,
    "draw_position": 0,
    "draws": 2,
}


class OnInconclusive(StrEnum):
    """What an undecided gate does to the exit code."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a run's numbers and verdicts.

    Attributes:
        model: directory or name of the host model; None takes the SAE's metadata.
        dataset: file, directory or hub name of the texts.
        cloze: cloze prompts: a file, a directory, or a name; None for none.
        prompts: how many of them; None takes the profile's number.
        profile: how much data where ``sequences`` is None.
        sequences: how many sequences.
        context: tokens in each; None takes the SAE's training context.
        batch_size: sequences at once; None chooses.
        position: of the token that is substituted alone.
        draw_position: of the token that is substituted alone by many random errors.
        draws: how many of these; None takes the profile's.
        seed: root seed of all noise.
        device: ``auto``, or a torch device.
        dtype: of the model's weights; ``tf32`` for float32 multiplied in TF32, on a GPU.
        packing: how documents become sequences.
        score_bos: count position 0 and special tokens too.
        bos_token: the token, or its id, that sequences begin with where the SAE was trained with
            one first; None takes the tokenizer's BOS, else EOS as TransformerLens does.
        interventions: which of them kl_gap measures; empty for all.
        thresholds: a threshold file; None takes the default one.
        fail_on: further rules.
        baseline: a baseline file, a directory of them or a git ref, to hold the run against.
        inconclusive: whether an undecided gate fails the run.
        stop_early: measure in rounds, and end where every gate is decided.
        overrides: what the SAEs' metadata lacks.
    """

    model: str | None = None
    dataset: str | None = None
    cloze: str | None = None
    prompts: int | None = None
    profile: Profile = Profile.STANDARD
    sequences: int | None = None
    context: int | None = None
    batch_size: int | None = None
    position: int = 32
    draw_position: int = 48
    draws: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    packing: Packing = Packing.DOCUMENTS
    score_bos: bool = False
    bos_token: str | None = None
    interventions: tuple[str, ...] = ()
    thresholds: str | None = None
    fail_on: tuple[str, ...] = ()
    baseline: str | None = None
    inconclusive: OnInconclusive = OnInconclusive.FAIL
    stop_early: bool = False
    overrides: Overrides = field(default_factory=Overrides)

    def __post_init__(self) -> None:
        """Refuse values that no run can have.

        Raises:
            OptionError: naming the option.
        """
        self._read_words()
        self._read_numbers()
        if self.dtype not in DTYPES:
            raise OptionError(
                f"--sae-dtype: unknown value {self.dtype!r}{nearest(self.dtype, DTYPES)}"
            )

    def _read_words(self) -> None:
        for name in ("score_bos", "stop_early"):
            yes_or_no(name, getattr(self, name))
        for name, made in (_WORDS | _CHOICES).items():
            value = getattr(self, name)
            if value is not None or name in _CHOICES:
                object.__setattr__(self, name, made(name, value))
        for name in ("interventions", "fail_on"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))

    def _read_numbers(self) -> None:
        for name in (*LEAST, "seed"):
            value = whole_number(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if value is not None and value < LEAST.get(name, value):
                raise OptionError(f"{option(name)} must be {LEAST[name]} or more, found {value}")

    @property
    def sequence_count(self) -> int:
        """How many sequences to take."""
        return SEQUENCES[self.profile] if self.sequences is None else self.sequences

    @property
    def draw_count(self) -> int:
        """How many random errors of one token to draw."""
        return DRAWS[self.profile] if self.draws is None else self.draws

    @property
    def drawn_sequences(self) -> int:
        """In how many sequences to draw them."""
        return DRAWN_SEQUENCES[self.profile]

    @property
    def prompt_count(self) -> int:
        """How many cloze prompts to take."""
        return PROMPTS[self.profile] if self.prompts is None else self.prompts


def option(name: str) -> str:
    """Return a field's option on the command line.

    Example:
        >>> option("batch_size")
        '--sae-batch-size'
    """
    return "--sae-" + name.replace("_", "-")


def whole_number(name: str, value: Any) -> int | None:
    """Return a number of any library's; None stays so.

    Raises:
        OptionError: for what is no whole number.
    """
    if value is None:
        return None
    if not isinstance(value, bool):
        with suppress(TypeError):
            return operator.index(value)
    raise OptionError(f"{option(name)}: expected a whole number, found {value!r}")


def yes_or_no(name: str, value: Any) -> None:
    """Refuse what is neither True nor False: the word "false" would count as true.

    Raises:
        OptionError: for anything else but None.
    """
    if value is not None and not isinstance(value, bool):
        raise OptionError(f"{option(name)}: expected True or False, found {value!r}")


def _path(name: str, value: Any) -> str:
    """Return a path or a name as text; judge() may be given path objects."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)  # pyright: ignore[reportReturnType]
    raise OptionError(f"{option(name)}: expected a path or a name, found {value!r}")


def _word(name: str, value: Any) -> str:  # noqa: ARG001  (all of these take an option's name)
    """Return a device, a token or its id as text; judge() may be given objects."""
    return str(value)


def _dtype(name: str, value: Any) -> str:  # noqa: ARG001
    """Return a dtype's name; judge() may be given torch's own."""
    return str(value).removeprefix("torch.")


def _member(name: str, value: str, kind: type[StrEnum]) -> StrEnum:
    """Return the enum's member of that value."""
    try:
        return kind(value)
    except ValueError as error:
        known = [str(member.value) for member in kind]
        raise OptionError(
            f"--sae-{name}: unknown value {value!r}{nearest(str(value), known)}"
        ) from error


_WORDS: dict[str, Callable[[str, Any], str]] = {
    "model": _path, "dataset": _path, "cloze": _path, "thresholds": _path, "baseline": _path,
    "device": _word, "dtype": _dtype, "bos_token": _word,
}  # fmt: skip
_CHOICES: dict[str, Callable[[str, Any], str]] = {
    "profile": partial(_member, kind=Profile),
    "packing": partial(_member, kind=Packing),
    "inconclusive": partial(_member, kind=OnInconclusive),
}


SHARD_TOKENS = 8192
SAES_TOGETHER = 32


class EngineKind(StrEnum):
    """Where shards are measured."""

    LOCAL = "local"
    RAY = "ray"


class Rerun(StrEnum):
    """What becomes of shards that lie in the run directory."""

    MISSING = "missing"
    FAILED = "failed"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Scale:
    """How a run is shared out.

    Attributes:
        engine: processes of this machine, or a Ray cluster.
        workers: how many processes of their own, or Ray actors; None measures in this process.
        address: of the Ray cluster; None starts one on this machine, ``auto`` finds a running one.
        run_dir: where finished shards are kept; None keeps them until the run is over.
        rerun: measure what is missing there, also what failed cases were read from, everything
            again, or nothing.
        shard_sequences: sequences of a shard; None takes as many as have 8192 tokens.
        threads: of each worker's matrix products; None is one for a worker, and all cores where
            there are no workers.
        gpus: of each Ray worker; a fraction shares one.
    """

    engine: EngineKind = EngineKind.LOCAL
    workers: int | None = None
    address: str | None = None
    run_dir: Path | None = None
    rerun: Rerun = Rerun.MISSING
    shard_sequences: int | None = None
    threads: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            OptionError: naming the option.
        """
        for name, kind in (("engine", EngineKind), ("rerun", Rerun)):
            value = str(getattr(self, name))
            if value not in list(kind):
                raise OptionError(
                    f"--sae-{name}: unknown value {value!r}{nearest(value, map(str, kind))}"
                )
            object.__setattr__(self, name, kind(value))
        for name, option in (
            ("workers", "workers"),
            ("shard_sequences", "shard-sequences"),
            ("threads", "worker-threads"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--sae-{option} must be 1 or more, found {value}")
        if self.gpus is not None and not 0 <= self.gpus < float("inf"):
            raise OptionError(f"--sae-worker-gpus must be 0 or more, found {self.gpus}")
        if self.engine is not EngineKind.RAY and (self.address or self.gpus):
            option = "--sae-ray-address" if self.address else "--sae-worker-gpus"
            raise OptionError(f"{option} is Ray's: give --sae-engine ray too")
        if self.rerun is not Rerun.MISSING and self.run_dir is None:
            raise OptionError(
                f"--sae-rerun {self.rerun.value}: of which run? give its --sae-run-dir DIR too"
            )

    @property
    def shares_out(self) -> bool:
        """True where the run is cut into shards."""
        return self.hires or self.run_dir is not None or self.shard_sequences is not None

    def refuse_rounds(self) -> None:
        """Refuse to share out a run that ends early.

        Raises:
            OptionError: naming both options.
        """
        if self.shares_out:
            raise OptionError(
                "--sae-stop-early measures in rounds, and --sae-workers, --sae-engine, "
                "--sae-run-dir in shards: give one or the other"
            )

    @property
    def hires(self) -> bool:
        """True where others measure the shards, not this process."""
        return self.engine is EngineKind.RAY or self.workers is not None

    @property
    def worker_threads(self) -> int:
        """Threads of the matrix products in a process that measures shards."""
        if self.threads is not None:
            return self.threads
        return 1 if self.hires else (os.cpu_count() or 1)


SHARED = {
    "workers": "workers",
    "shard_sequences": "shard_sequences",
    "worker_threads": "threads",
}
NUMBERS = (
    "sequences",
    "prompts",
    "context",
    "batch_size",
    "position",
    "draw_position",
    "draws",
    "seed",
)
PLAIN = (
    *NUMBERS,
    "profile",
    "packing",
    "inconclusive",
    "model",
    "dataset",
    "cloze",
    "device",
    "dtype",
    "thresholds",
    "baseline",
    "bos_token",
)
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Return the settings that raw options mean.

    Raises:
        OptionError: for a value that an option cannot have.
    """
    if "unknown" in options:
        key, known = options["unknown"]
        raise OptionError(
            f"[tool.saebench] of pyproject.toml: unknown key {key!r}{nearest(key, known)}"
        )
    chosen: dict[str, Any] = {key: options[key] for key in PLAIN if key in options}
    for key in NUMBERS:
        if key in chosen:
            chosen[key] = _number(key, chosen[key])
    training_context = options.get("training_context")
    overrides = Overrides(
        hook=options.get("hook"),
        training_context=None
        if training_context is None
        else _number("training_context", training_context),
        prepend_bos=flag(options, "prepend_bos"),
        hook_out=options.get("hook_out"),
        norm_factor=options.get("norm_factor"),
    )
    return Settings(
        **chosen,
        interventions=tuple(listed(options, "interventions", separator=",")),
        fail_on=tuple(listed(options, "fail_on", separator="\n")),
        score_bos=bool(flag(options, "score_bos")),
        stop_early=bool(flag(options, "stop_early")),
        overrides=overrides,
    )


def check_stop_early(settings: Settings, scale: Scale, options: Mapping[str, Any]) -> None:
    """Refuse what a run that ends early cannot do.

    Raises:
        OptionError: naming both options.
    """
    if not settings.stop_early:
        return
    scale.refuse_rounds()
    for key in ("update_baselines", "update_new"):
        if flag(options, key):
            raise OptionError(
                f"--sae-stop-early with {_option(key)}: a run that ended early is no baseline, "
                "measure all sequences for one"
            )


def scale_of(options: Mapping[str, Any]) -> Scale:
    """Return how raw options mean the run to be shared out.

    Raises:
        OptionError: for a value that an option cannot have.
    """
    chosen: dict[str, Any] = {key: options[key] for key in ("engine", "rerun") if key in options}
    for key, name in SHARED.items():
        if key in options:
            chosen[name] = _number(key, options[key])
    if "worker_gpus" in options:
        try:
            chosen["gpus"] = float(options["worker_gpus"])
        except ValueError as error:
            given = options["worker_gpus"]
            raise OptionError(f"--sae-worker-gpus: expected a number, found {given!r}") from error
    if "run_dir" in options:
        chosen["run_dir"] = Path(options["run_dir"]).absolute()
    return Scale(**chosen, address=options.get("ray_address"))


def listed(options: Mapping[str, Any], key: str, *, separator: str) -> list[str]:
    """Return an option's several values, given as a list or in one text."""
    value = options.get(key, [])
    parts = value.split(separator) if isinstance(value, str) else value
    return [part.strip() for part in parts if part.strip()]


def _number(key: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{_option(key)}: expected a whole number, found {value!r}") from error


def flag(options: Mapping[str, Any], key: str) -> bool | None:
    """Return whether an option is on; None where it was not given.

    Raises:
        OptionError: for what is neither true nor false.
    """
    value = options.get(key)
    if value is None or isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in YES + NO:
        raise OptionError(f"{_option(key)}: expected true or false, found {value!r}")
    return text in YES


def _option(key: str) -> str:
    return "--sae-" + key.replace("_", "-")
