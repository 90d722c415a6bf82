"""Boards: SAEs side by side, on one where their numbers rest on equal tokens. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass

from saebench.records.published import Published
from saebench.records.run import Direction


@dataclass(frozen=True)
class Facts:
    """What is known of a metric; direction is None for one that this saebench does not have."""

    unit: str
    direction: Direction | None
    target: float | None = None


@dataclass(frozen=True)
class Score:
    """One metric of one SAE; value is None where it is undefined."""

    version: int
    value: float | None
    ci: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """One SAE: its verdicts and scores by case, such as ``kl_gap[scope=all]``.

    ``fronts`` are the metrics on whose Pareto front against the features that fire it lies.
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
        """The SAE's weights and configuration, whatever it is called."""
        return f"{self.weights_sha256}-{self.config_sha256}"


@dataclass(frozen=True)
class BoardModel:
    """The model that a board's SAEs were put into."""

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
    """SAEs that can be ranked: of one hook of one model, measured on equal tokens and noise."""

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
    """All boards, and what was published elsewhere, which is on none of them."""

    schema_version: int
    boards: tuple[Board, ...]
    published: tuple[Published, ...]
