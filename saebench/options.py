"""The options, each declared once: as a field of the record that holds its value.

From these fields come pytest's options and their help, the variables ``SAEBENCH_…``, the keys of
``[tool.saebench]``, the keywords of ``judge()``, and the command that measures a case again. Every
pytest run of the environment imports this, so it imports neither pytest nor anything slow.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from saebench.errors import OptionError, nearest
from saebench.option_kinds import (
    DIRECTORY,
    FILE,
    FLAG,
    NUMBER,
    PATH_OR_NAME,
    TRUE_OR_FALSE,
    WHOLE,
    WORD,
    Group,
    Kind,
    OptionRecord,
    choice,
    option,
    options_of,
    several,
)

SAE, DATA, GATE, OUTPUT, SCALE = Group
SHORTEST_CONTEXT = 3  # position 0, one token to score, and its target
FOLDED, ESTIMATE = "folded", "estimate"
DTYPES = ("float32", "tf32", "bfloat16", "float16")
SHARD_TOKENS = 8192
SAES_TOGETHER = 32
VARIABLES = "SAEBENCH_"
LEAST_DOCUMENTS = 30  # independent ones, on which a gate is decided

Record = TypeVar("Record")


class Packing(StrEnum):
    """How documents become sequences."""

    DOCUMENTS = "documents"
    PACKED = "packed"


class Order(StrEnum):
    """Which documents and prompts of a source are measured."""

    SEEDED = "seeded"
    FILE = "file"


class Profile(StrEnum):
    """How much is measured where no number is given."""

    SMOKE = "smoke"
    STANDARD = "standard"
    RELEASE = "release"


class OnInconclusive(StrEnum):
    """What an undecided gate does to the exit code."""

    FAIL = "fail"
    WARN = "warn"


class EngineKind(StrEnum):
    """Where shards are measured."""

    LOCAL = "local"
    RAY = "ray"


class Rerun(StrEnum):
    """What becomes of the shards in the run directory."""

    MISSING = "missing"
    FAILED = "failed"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Amounts:
    """How much a profile measures: sequences, random errors of one token, cloze prompts."""

    sequences: int
    draws: int
    drawn_sequences: int
    prompts: int


AMOUNTS = {
    Profile.SMOKE: Amounts(sequences=64, draws=50, drawn_sequences=16, prompts=100),
    Profile.STANDARD: Amounts(sequences=512, draws=500, drawn_sequences=64, prompts=1000),
    Profile.RELEASE: Amounts(sequences=16_384, draws=500, drawn_sequences=512, prompts=1000),
}


def _norm_factor(value: Any) -> str | float:
    """Return ``folded``, ``estimate``, or the number that a text or a number is."""
    if value in (FOLDED, ESTIMATE):
        return value
    number = float(value) if not isinstance(value, bool) else 0.0
    if not 0 < number < float("inf"):
        raise ValueError
    return number


NORM_FACTOR = Kind(f"{FOLDED}, {ESTIMATE} or a number above 0", "X|folded|estimate", _norm_factor)
DTYPE = replace(choice(DTYPES), convert=lambda value: str(value).removeprefix("torch."))
NAME, HOOK, TOKEN = (replace(WORD, metavar=metavar) for metavar in ("NAME", "HOOK", "TOKEN|ID"))


@dataclass(frozen=True)
class Overrides(OptionRecord):
    """What the user says about an SAE where its metadata does not, or says it wrong.

    Raises:
        OptionError: for a value that the option cannot have.
    """

    hook: str | None = option(SAE, HOOK, "the SAE's hook, where its metadata has none")
    training_context: int | None = option(
        SAE, WHOLE, "context that the SAE was trained on, where its metadata has none"
    )
    prepend_bos: bool | None = option(
        SAE, TRUE_OR_FALSE, "whether it was trained with BOS first, where its metadata is silent"
    )
    hook_out: str | None = option(
        SAE, HOOK, "a transcoder's output hook, where its metadata has none"
    )
    norm_factor: str | float | None = option(
        SAE,
        NORM_FACTOR,
        "what its training scaled activations with, where its files do not say: a number, "
        "estimate from the texts, or folded where the weights hold it",
    )


@dataclass(frozen=True)
class Settings(OptionRecord):
    """Everything that shapes a run's numbers and verdicts.

    Raises:
        OptionError: for a value that the option cannot have.
    """

    model: str | None = option(
        SAE, PATH_OR_NAME, "host model, where the SAE's metadata is not enough: directory or name"
    )
    overrides: Overrides = field(default_factory=Overrides)
    host_patch: bool = option(
        SAE,
        FLAG,
        "judge an SAE that has host_patch.safetensors in the model so patched, and gate what that "
        "costs (default: in the model as it is)",
    )
    bos_token: str | None = option(
        SAE,
        TOKEN,
        "the token, or its id, that sequences begin with, for SAEs trained with BOS first "
        "(default: BOS, else EOS)",
    )
    dataset: str | None = option(
        DATA, PATH_OR_NAME, "texts: .jsonl, .txt, .parquet, a saved data set, or a hub NAME[:SPLIT]"
    )
    trained_on: tuple[str, ...] = option(
        DATA,
        several("\n", "SPEC", repeatable=True),
        "texts that the SAEs were trained on, as for --sae-dataset, repeatable: measures how many "
        "judged sequences occur in them (default: those that metadata name, where they are at "
        "hand)",
    )
    cloze: str | None = option(
        DATA,
        PATH_OR_NAME,
        "cloze prompts: a file, a saved data set, lambada_openai, lambada, cbt_cn",
    )
    profile: Profile = option(
        DATA, choice(Profile), "how much is measured by default", default=Profile.STANDARD
    )
    sequences: int | None = option(
        DATA, WHOLE, "number of sequences (default: the profile's)", least=1
    )
    prompts: int | None = option(
        DATA, WHOLE, "number of cloze prompts (default: the profile's)", least=1
    )
    context: int | None = option(
        DATA,
        WHOLE,
        "tokens in each sequence (default: the SAE's training context)",
        least=SHORTEST_CONTEXT,
    )
    batch_size: int | None = option(
        DATA, WHOLE, "sequences in a batch (default: as many as memory allows)", least=1
    )
    position: int = option(
        DATA,
        WHOLE,
        "position of the token substituted alone (single_token, kl_gap)",
        default=32,
        least=0,
    )
    draw_position: int = option(
        DATA,
        WHOLE,
        "position of the token with many random errors (single_token)",
        default=48,
        least=0,
    )
    draws: int | None = option(
        DATA, WHOLE, "how many random errors (default: the profile's, 50 or 500)", least=2
    )
    order: Order = option(
        DATA,
        choice(Order),
        "which documents and prompts: drawn by --sae-seed from all there are, or the file's first",
        default=Order.SEEDED,
    )
    seed: int = option(
        DATA, WHOLE, "root seed of all noise, and of which documents are drawn", default=0
    )
    device: str = option(
        DATA, NAME, "torch device (default: cuda where there is one, else cpu)", default="auto"
    )
    dtype: str = option(
        DATA,
        DTYPE,
        "dtype of the model; tf32, on a GPU, is float32 multiplied in TF32",
        default="float32",
    )
    packing: Packing = option(
        DATA,
        choice(Packing),
        "how documents become sequences: one of each, or joined and cut",
        default=Packing.DOCUMENTS,
    )
    score_bos: bool = option(DATA, FLAG, "substitute and score position 0 and special tokens too")
    interventions: tuple[str, ...] = option(
        DATA, several(",", "NAME[,NAME...]"), "interventions that kl_gap measures (default: all)"
    )
    stop_early: bool = option(
        DATA, FLAG, "measure in rounds of sequences; end where every primary gate is decided"
    )
    thresholds: str | None = option(
        GATE, PATH_OR_NAME, "threshold file (default: baselines/thresholds.toml)"
    )
    fail_on: tuple[str, ...] = option(
        GATE,
        several("\n", "RULE", repeatable=True),
        "a further gate, repeatable: 'kl_gap.ratio[eps_random]<=2', 'fidelity.kl in [0,0.1]'",
    )
    baseline: str | None = option(
        GATE,
        PATH_OR_NAME,
        "stored baselines to compare with: a file, a directory of them, a git ref, REF:PATH",
    )
    min_documents: int | None = option(
        GATE,
        WHOLE,
        f"independent documents that decide a gate (default: {LEAST_DOCUMENTS}); with fewer it is "
        "INCONCLUSIVE",
        least=1,
    )
    inconclusive: OnInconclusive = option(
        GATE, choice(OnInconclusive), "what an undecided gate does", default=OnInconclusive.FAIL
    )
    allow_partial: bool = option(
        GATE,
        FLAG,
        "let a run that leaves deciding cases out (by -k) exit with 0; it stays INCOMPLETE",
    )

    @property
    def sequence_count(self) -> int:
        """How many sequences to take."""
        return AMOUNTS[self.profile].sequences if self.sequences is None else self.sequences

    @property
    def least_documents(self) -> int:
        """How many independent documents decide a gate."""
        return LEAST_DOCUMENTS if self.min_documents is None else self.min_documents

    @property
    def draw_count(self) -> int:
        """How many random errors of one token to draw."""
        return AMOUNTS[self.profile].draws if self.draws is None else self.draws

    @property
    def drawn_sequences(self) -> int:
        """In how many sequences to draw them."""
        return AMOUNTS[self.profile].drawn_sequences

    @property
    def prompt_count(self) -> int:
        """How many cloze prompts to take."""
        return AMOUNTS[self.profile].prompts if self.prompts is None else self.prompts


@dataclass(frozen=True)
class Scale(OptionRecord):
    """How a run is divided into shards, and who measures them.

    Raises:
        OptionError: for a value that the option cannot have, or that needs another option.
    """

    engine: EngineKind = option(
        SCALE, choice(EngineKind), "where shards are measured", default=EngineKind.LOCAL
    )
    workers: int | None = option(
        SCALE,
        WHOLE,
        "processes, or Ray actors, that share the sequences (default: the calling process)",
        least=1,
    )
    address: str | None = option(
        SCALE,
        replace(WORD, metavar="auto|HOST:PORT"),
        "address of a running Ray cluster, or auto to find it (default: one is started here)",
        name="ray-address",
    )
    run_dir: Path | None = option(
        SCALE, DIRECTORY, "keep finished shards here: the same command goes on where it stopped"
    )
    rerun: Rerun = option(
        SCALE,
        choice(Rerun),
        "which shards of the run directory are measured again: those it lacks, those of failed "
        "cases, all, none",
        default=Rerun.MISSING,
    )
    shard_sequences: int | None = option(
        SCALE, WHOLE, f"sequences of a shard (default: {SHARD_TOKENS} tokens' worth)", least=1
    )
    threads: int | None = option(
        SCALE,
        WHOLE,
        "threads of each worker's matrix products (default: 1; without workers all cores)",
        least=1,
        name="worker-threads",
    )
    gpus: float | None = option(
        SCALE, NUMBER, "GPUs of each Ray worker, 0.25 for a quarter", least=0, name="worker-gpus"
    )

    def __post_init__(self) -> None:
        """Check each value, and that those given fit together."""
        super().__post_init__()
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", self.run_dir.absolute())
        if self.engine is not EngineKind.RAY and (self.address or self.gpus):
            flag = "--sae-ray-address" if self.address else "--sae-worker-gpus"
            raise OptionError(f"{flag} is Ray's: give --sae-engine ray too")
        if self.rerun is not Rerun.MISSING and self.run_dir is None:
            raise OptionError(
                f"--sae-rerun {self.rerun.value}: of which run? give its --sae-run-dir DIR too"
            )

    @property
    def shares_out(self) -> bool:
        """True where the run is divided into shards."""
        return self.hires or self.run_dir is not None or self.shard_sequences is not None

    @property
    def hires(self) -> bool:
        """True where workers measure the shards, not this process."""
        return self.engine is EngineKind.RAY or self.workers is not None

    @property
    def worker_threads(self) -> int:
        """Threads of the matrix products in a process that measures shards."""
        if self.threads is not None:
            return self.threads
        return 1 if self.hires else (os.cpu_count() or 1)


@dataclass(frozen=True)
class RunOptions(OptionRecord):
    """Everything that a run was asked: what to judge and how, and what to write.

    Raises:
        OptionError: for a value that the option cannot have, or options that exclude each other.
    """

    sae: tuple[str, ...] = option(
        SAE,
        several("\n", "SPEC", repeatable=True),
        "an SAE to judge, repeatable: a SAELens directory, a glob of them, release:sae_id, or "
        "org/repo:path; NAME=SPEC names it",
    )
    settings: Settings = field(default_factory=Settings)
    cost: bool = option(
        DATA,
        FLAG,
        "time the cost cases too (else only where nothing but cost is selected: -k cost)",
    )
    json: Path | None = option(OUTPUT, FILE, "write the result file here")
    md: Path | None = option(OUTPUT, FILE, "write a Markdown summary here")
    html: Path | None = option(
        OUTPUT, FILE, "write the report here: one page for a browser, which needs no network"
    )
    update_baselines: bool = option(
        OUTPUT, FLAG, "store what this run measured as baselines, printing old -> new"
    )
    update_new: bool = option(OUTPUT, FLAG, "store baselines of cases that have none yet")
    scale: Scale = field(default_factory=Scale)

    def __post_init__(self) -> None:
        """Check each value, and what a run that ends early cannot do."""
        super().__post_init__()
        if not self.settings.stop_early:
            return
        if self.scale.shares_out:
            raise OptionError(
                "--sae-stop-early measures in rounds, and --sae-workers, --sae-engine, "
                "--sae-run-dir in shards: give one or the other"
            )
        if self.update_baselines or self.update_new:
            flag = "--sae-update-baselines" if self.update_baselines else "--sae-update-new"
            raise OptionError(
                f"--sae-stop-early with {flag}: a run that ended early is no baseline, "
                "measure all sequences for one"
            )


OPTIONS = options_of(RunOptions)


def declare(group_of: Callable[[Group], Callable[..., Any]]) -> None:
    """Declare all options to a parser, argparse's or pytest's.

    Args:
        group_of: returns what adds an option to a group of the parser's help.
    """
    for group in Group:
        add = group_of(group)
        for each in (each for each in OPTIONS if each.group is group):
            add(each.flag, **each.declaration)


def given_options(config: Any) -> dict[str, Any]:
    """Return what was given, by name: command line over environment over [tool.saebench].

    Args:
        config: pytest's.

    Raises:
        TOMLDecodeError: where pyproject.toml cannot be read.
    """
    given = dict(_project_table(config.rootpath))
    for each in OPTIONS:
        value = config.getoption(each.flag)
        if value is None:
            value = os.environ.get(each.variable)
        if value is not None:
            given[each.name] = value
    return given


def _project_table(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    if not path.is_file():
        return {}
    import tomllib

    tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    table = tools.get("saebench", {}) if isinstance(tools, dict) else {}
    return table if isinstance(table, dict) else {"": table}


def unknown_variables(environment: Iterable[str]) -> dict[str, str]:
    """Return the variables that look like saebench's and are no option's, with the nearest.

    Args:
        environment: names of variables.

    Example:
        >>> unknown_variables(["SAEBENCH_SEED", "SAEBENCH_FAILON", "HOME"])
        {'SAEBENCH_FAILON': "; did you mean 'SAEBENCH_FAIL_ON'?"}
    """
    known = {each.variable for each in OPTIONS}
    named = (name for name in environment if name.upper().startswith(VARIABLES))
    return {name: nearest(name.upper(), known) for name in sorted(set(named) - known)}


def check_variables(environment: Iterable[str]) -> None:
    """Refuse a variable that looks like saebench's and is no option's: it would do nothing.

    Args:
        environment: names of variables.

    Raises:
        OptionError: naming the variable, and the nearest one that there is.
    """
    for name, suggestion in unknown_variables(environment).items():
        raise OptionError(
            f"environment: unknown variable {name}{suggestion}; each variable is an option of "
            "saebench run, unset this one"
        )


def run_options(given: Mapping[str, Any]) -> RunOptions:
    """Return the options that were given as texts, by name.

    Raises:
        OptionError: for an unknown name, or a value that an option cannot have.
    """
    if "" in given:
        raise OptionError(
            "[tool.saebench] of pyproject.toml: expected a table such as sequences = 64, found "
            f"{given['']!r}"
        )
    known = sorted(each.name for each in OPTIONS)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise OptionError(
            f"[tool.saebench] of pyproject.toml: unknown key {unknown[0]!r}"
            f"{nearest(unknown[0], known)}"
        )
    values = {o.field: o.kind.parse(given[o.name]) for o in OPTIONS if o.name in given}
    return options_from(RunOptions, values)


def options_from(record: type[Record], values: Mapping[str, Any]) -> Record:
    """Return a record of options, and the records within it, from Python values by field.

    Raises:
        OptionError: for a value that an option cannot have.

    Example:
        >>> options_from(RunOptions, {"sequences": 16, "workers": 2}).settings.sequences
        16
    """
    given: dict[str, Any] = {}
    for name, kind in get_type_hints(record).items():
        if is_dataclass(kind) and isinstance(kind, type):
            given[name] = options_from(kind, values)
        elif name in values:
            given[name] = values[name]
    return record(**given)
