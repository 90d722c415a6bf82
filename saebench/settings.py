"""What a run was asked to do, once command line, environment and defaults are settled."""

from dataclasses import dataclass, field
from enum import StrEnum

from saebench.data.names import Packing
from saebench.errors import OptionError, nearest
from saebench.subjects.metadata import SHORTEST_CONTEXT, Overrides
from saebench.substitution.names import check_names

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
        for name, kind in (
            ("profile", Profile),
            ("packing", Packing),
            ("inconclusive", OnInconclusive),
        ):
            object.__setattr__(self, name, _member(name, getattr(self, name), kind))
        for name in ("interventions", "fail_on"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.bos_token is not None:  # from Python an id may be a number
            object.__setattr__(self, "bos_token", str(self.bos_token))
        check_names(self.interventions)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                option = "--sae-" + name.replace("_", "-")
                raise OptionError(f"{option} must be {least} or more, found {value}")
        if self.dtype not in DTYPES:
            raise OptionError(
                f"--sae-dtype: unknown value {self.dtype!r}{nearest(self.dtype, DTYPES)}"
            )

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


def _member(name: str, value: str, kind: type[StrEnum]) -> StrEnum:
    """Return the enum's member of that value."""
    try:
        return kind(value)
    except ValueError as error:
        known = [str(member.value) for member in kind]
        raise OptionError(
            f"--sae-{name}: unknown value {value!r}{nearest(str(value), known)}"
        ) from error
