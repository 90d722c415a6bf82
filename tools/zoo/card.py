"""The zoo's card: its recipe, its scores, and the hashes of the shipped files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from saebench.zoo.recipe import (
    L0_TARGET,
    MODEL,
    PUBLISHED_L0_SHARE,
    SAE_CONTEXT,
    SAE_TRAINING,
    SAES,
)

CARD_JSON = "card.json"
CARD_TEXT = "CARD.md"


@dataclass(frozen=True)
class ClozeScores:
    """Accuracy on one kind of cloze prompts, and the best n-gram's on the same prompts."""

    n: int
    accuracy: float
    ngram_accuracy: float


@dataclass(frozen=True)
class SaeScores:
    """Reconstruction scores of an SAE on held-out activations at its training context."""

    explained_variance: float
    l2_ratio: float
    l0: float
    dead: float


@dataclass(frozen=True)
class CheckValues:
    """Results of the training's first steps, which `--check` must reproduce."""

    model_losses: tuple[float, ...]
    sae: SaeScores


@dataclass(frozen=True)
class Card:
    """The facts on the card."""

    recipe_sha256: str
    seed: int
    versions: dict[str, str]
    model_tokens: int
    model_duration_s: float
    saes_duration_s: float
    training_ce: float
    heldout_ce: float
    cloze: dict[str, ClozeScores]
    saes: dict[str, SaeScores]
    check: CheckValues
    files: dict[str, str]
    gate: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def write_card(card: Card, directory: Path) -> None:
    """Write `card` to `directory` for programs and for people."""
    (directory / CARD_JSON).write_text(json.dumps(asdict(card), indent=1) + "\n")
    (directory / CARD_TEXT).write_text(render(card))


def read_card(directory: Path) -> Card:
    """Return the card in `directory`."""
    data = json.loads((directory / CARD_JSON).read_text(encoding="utf-8"))
    check = data.pop("check")
    return Card(
        cloze={kind: ClozeScores(**scores) for kind, scores in data.pop("cloze").items()},
        saes={name: SaeScores(**scores) for name, scores in data.pop("saes").items()},
        check=CheckValues(tuple(check["model_losses"]), SaeScores(**check["sae"])),
        **data,
    )


def file_hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every shipped file but the card, by path relative to `directory`."""
    files = sorted(p for part in ("model", "saes") for p in (directory / part).rglob("*.*"))
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def render(card: Card) -> str:
    """Return the card as Markdown."""
    parts = (_model_lines, _sae_lines, _gate_lines, _recipe_lines)
    return "\n".join(line for part in parts for line in part(card)) + "\n"


def _model_lines(card: Card) -> list[str]:
    lines = [
        "# The embedded zoo",
        "",
        "An honest toy: a small GPT-2 trained on machine-made stories, and sparse autoencoders of",
        "it. A verdict on them says nothing about GPT-2 or any other language model.",
        "",
        "## Model",
        "",
        f"GPT-2 architecture, {MODEL.n_layer} layers, width {MODEL.d_model}, {MODEL.n_head} heads, "
        f"context {MODEL.n_positions}, learned absolute positions.",
        f"Trained on {card.model_tokens:,} tokens, padding included, of stories and rhymes, each "
        f"from position 0, in {card.model_duration_s / 60:.0f} minutes on 2 CPU cores.",
        f"Cross-entropy {card.heldout_ce:.3f} nats on held-out stories "
        f"({card.training_ce:.3f} over the last 100 training steps).",
        "",
        "| cloze | prompts | accuracy | best of unigram, bigram, trigram |",
        "|---|---|---|---|",
    ]
    for kind, scores in card.cloze.items():
        lines.append(
            f"| {kind} | {scores.n} | {scores.accuracy:.3f} | {scores.ngram_accuracy:.3f} |"
        )
    return lines


_CHOICES = (
    "The target of sparsity came first: {} active features a token, {:.3f} of the model's width; "
    "SAEs of GPT-2 small have about {} to {} (Anders & Bloom 2024).".format(
        L0_TARGET, L0_TARGET / MODEL.d_model, *PUBLISHED_L0_SHARE
    ),
    "Each strength of sparsity is the one of 1, 1.5, 2, 3, 5 and 7 times a power of ten that came "
    "near it on validation stories. Steps, batch and the start of the decoder's bias were chosen "
    "by explained variance at that sparsity and by the share of dead features. No SAE was chosen "
    "or left out for its verdict.",
    "Two are bad on purpose and must fail: l2-dense, whose L1 is ten times weaker, and "
    "l2-shrunken, whose L1 is more than twice as strong. They stay beside the others, as does any "
    "other that fails.",
)


def _sae_lines(card: Card) -> list[str]:
    lines = [
        "",
        "## Sparse autoencoders",
        "",
        f"Trained by SAELens' own trainer at context {SAE_CONTEXT}, position 0 left out: "
        f"{SAE_TRAINING.d_sae} features, {SAE_TRAINING.n_activations:,} activations, "
        f"{SAE_TRAINING.steps} steps of {SAE_TRAINING.batch_size}; "
        f"{card.saes_duration_s / 60:.0f} minutes for all.",
        "",
        *_CHOICES,
        "",
        "Scores are on held-out stories at positions 1 to 63.",
        "",
        "| name | hook | trained as | l0 | l0 by width | l2_ratio | explained variance | dead |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe in SAES:
        scores, (option, value) = card.saes[recipe.name], next(iter(recipe.options.items()))
        lines.append(
            f"| {recipe.name} | {recipe.hook_name} | {recipe.architecture}, {option} {value:g} "
            f"| {scores.l0:.1f} | {scores.l0 / MODEL.d_model:.3f} "
            f"| {scores.l2_ratio:.3f} | {scores.explained_variance:.3f} "
            f"| {scores.dead:.3f} |"
        )
    return lines


def _gate_lines(card: Card) -> list[str]:
    """Return the gate's own measurements: value and 95% interval over stories or prompts."""
    if not card.gate:
        return []
    metrics = list(next(iter(card.gate.values())))
    return [
        "",
        "## What the gate measures",
        "",
        "Value [95% interval over stories, or prompts], by "
        "`python -m tools.zoo.check --write-card`. "
        "`kl_gap` is at the training context of 64, `context_length` at 256.",
        "",
        "| name | " + " | ".join(metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
        *(
            f"| {name} | " + " | ".join(map(_with_interval, row.values())) + " |"
            for name, row in card.gate.items()
        ),
        "",
        "The published phenomena appear: errors worse than random ones of their size (Gurnee "
        "2024), loss that grows with the distance beyond the training context and is worst at the "
        "first layer (Anders & Bloom 2024), shrinkage under a strong L1 (Wright & Sharkey 2024). "
        "One is weak: the shrunken SAE costs accuracy on cloze prompts (0.017, McNemar's p 1e-7), "
        "but it takes thousands of prompts to see it.",
    ]


def _with_interval(numbers: list[float]) -> str:
    value, low, high = numbers
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _recipe_lines(card: Card) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    return [
        "",
        "## Recipe",
        "",
        f"- Seed {card.seed}; recipe {card.recipe_sha256}",
        f"- Made with {versions}",
        "- Make it again: `python -m tools.zoo.build`; verify it: add `--check`",
    ]
