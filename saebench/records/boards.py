"""The leaderboard: boards of SAEs that were measured on equal tokens, and published figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from saebench.records.metric import AsEnds, Direction, Interval, MetricValue
from saebench.records.published import Published
from saebench.records.schema import Schema


@dataclass(frozen=True)
class Facts:
    """A metric's unit and direction; direction is None for one that this saebench does not have."""

    unit: str
    direction: Direction | None
    target: float | None = None

    def loss(self, value: float) -> float:
        """Return a value turned so that smaller is better: the distance from a target.

        Example:
            >>> Facts("share", Direction.HIGHER).loss(0.75)
            -0.75
        """
        if self.direction is Direction.TARGET:
            return abs(value - (self.target or 0.0))
        return -value if self.direction is Direction.HIGHER else value


@dataclass(frozen=True)
class Score:
    """One metric of one SAE; value is None where it is undefined."""

    version: int
    value: float | None
    ci: Annotated[Interval, AsEnds()] | None

    @classmethod
    def of(cls, metric: MetricValue) -> "Score":
        """Return the score of a run's or a baseline's metric."""
        return cls(metric.version, metric.value, metric.ci)


@dataclass(frozen=True)
class Row:
    """One SAE: its verdicts and scores by case, such as ``kl_gap[scope=all]``.

    ``fronts`` are the metrics whose Pareto front against the number of active features it is on.
    """

    sae: str
    weights_sha256: str
    config_sha256: str
    architecture: str
    d_sae: int
    training_context: int | None
    verdicts: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Score]]
    fronts: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The hashes of the SAE's weights and configuration: equal for the same SAE of any name."""
        return f"{self.weights_sha256}-{self.config_sha256}"


@dataclass(frozen=True)
class BoardModel:
    """The language model of a board's SAEs."""

    name: str
    weights_sha256: str
    dtype: str


@dataclass(frozen=True)
class BoardData:
    """The token sequences that a board's SAEs were measured on."""

    name: str
    split: str | None
    fingerprint: str
    sequences: int
    context: int
    packing: str


@dataclass(frozen=True)
class Board:
    """SAEs that can be ranked: of one hook of one model, with equal tokens and random seed."""

    model: BoardModel
    hook: str
    dataset: BoardData
    seed: int
    metrics: Mapping[str, Facts]
    rows: tuple[Row, ...]

    @property
    def place(self) -> str:
        """Model and hook, for people."""
        return f"{self.model.name} · {self.hook}"


@dataclass(frozen=True)
class Leaderboard:
    """All boards, and published figures, which are on none of them."""

    schema_version: int
    boards: tuple[Board, ...]
    published: tuple[Published, ...]


LEADERBOARD = Schema(
    Leaderboard,
    1,
    "leaderboard",
    hint="saebench leaderboard build makes it of the baselines",
)
