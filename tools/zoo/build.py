"""Build the zoo from its recipe, or check the shipped files against it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from saebench.zoo import corpus
from saebench.zoo.recipe import MODEL, SAE_TRAINING, SAES, recipe_hash
from saebench.zoo.shelf import WEIGHTS
from tools.zoo import activations, card, scores
from tools.zoo.card import Card, CheckValues, ClozeScores, SaeScores
from tools.zoo.model import new_model, train_model
from tools.zoo.saes import load_sae, save_sae, train_sae
from tools.zoo.tokenizer import build_tokenizer, save_tokenizer

N_PROMPTS = 1000
N_HELDOUT_STORIES = 512
N_HELDOUT_ACTIVATIONS = 20_000
N_NGRAM_STORIES = 20_000
CHECK_MODEL_STEPS = 6
CHECK_SAE_TRAINING = replace(SAE_TRAINING, n_activations=8192, batch_size=1024, steps=24)
# Other machines sum in another order; early in training the differences stay small.
LOSS_TOLERANCE_NATS = 0.02
SCORE_TOLERANCE = 0.03

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Host:
    model: GPT2LMHeadModel
    tokenizer: PreTrainedTokenizerFast
    seed: int


def build(out: Path, *, seed: int = 0) -> Card:
    """Train the model and all SAEs, save them under `out`, score them, and write the card."""
    tokenizer = build_tokenizer(max_length=MODEL.n_positions)
    host = _Host(new_model(tokenizer, seed=seed), tokenizer, seed)
    begin = time.monotonic()
    losses = train_model(host.model, tokenizer, seed=seed)
    trained = time.monotonic()
    host.model.save_pretrained(out / "model")
    save_tokenizer(out / "model", max_length=MODEL.n_positions)
    sae_scores = build_saes(host, out)
    result = Card(
        recipe_sha256=recipe_hash(seed=seed),
        seed=seed,
        versions=_versions(),
        model_tokens=sum(lesson.steps * lesson.batch_tokens for lesson in MODEL.lessons),
        model_duration_s=round(trained - begin, 1),
        saes_duration_s=round(time.monotonic() - trained, 1),
        training_ce=sum(losses[-100:]) / 100,
        heldout_ce=_heldout_ce(host),
        cloze=dict(_cloze_scores(host)),
        saes=sae_scores,
        check=CheckValues(tuple(losses[:CHECK_MODEL_STEPS]), _short_sae_run(host)),
        files=card.file_hashes(out),
    )
    card.write_card(result, out)
    return result


def rebuild_saes(out: Path) -> Card:
    """Train and score all SAEs of the model in `out` again; the model stays as it is."""
    stored = card.read_card(out)
    host = _shipped(out, seed=stored.seed)
    begin = time.monotonic()
    sae_scores = build_saes(host, out)
    result = replace(
        stored,
        recipe_sha256=recipe_hash(seed=stored.seed),
        versions=_versions(),
        saes_duration_s=round(time.monotonic() - begin, 1),
        saes=sae_scores,
        check=CheckValues(stored.check.model_losses, _short_sae_run(host)),
        files=card.file_hashes(out),
        gate={},
    )
    card.write_card(result, out)
    return result


def build_saes(host: _Host, out: Path) -> dict[str, SaeScores]:
    """Train, save and score the SAEs, on activations from one pass of the model."""
    hook_names = tuple(dict.fromkeys(recipe.hook_name for recipe in SAES))
    training = _activations(host, hook_names, "sae", n=SAE_TRAINING.n_activations)
    heldout = _activations(host, hook_names, "heldout", n=N_HELDOUT_ACTIVATIONS)
    scored: dict[str, SaeScores] = {}
    for recipe in SAES:
        directory = out / "saes" / recipe.name
        save_sae(train_sae(recipe, training[recipe.hook_name], seed=host.seed), directory)
        scored[recipe.name] = scores.score_sae(load_sae(directory), heldout[recipe.hook_name])
        _log.info("%s: %s", recipe.name, scored[recipe.name])
    return scored


def check(directory: Path) -> list[str]:
    """Return how the zoo in `directory` differs from its card and the recipe; empty if nowhere."""
    stored = card.read_card(directory)
    if stored.recipe_sha256 != recipe_hash(seed=stored.seed):
        return ["recipe: this code's recipe is not the card's; rebuild the zoo"]
    problems = list(_hash_problems(directory, stored))
    return problems or list(_training_problems(directory, stored))


def _hash_problems(directory: Path, stored: Card) -> Iterator[str]:
    actual = card.file_hashes(directory)
    for path in sorted(stored.files.keys() | actual.keys()):
        if stored.files.get(path) != actual.get(path):
            sha256 = actual.get(path, "missing")
            yield f"{path}: expected {stored.files.get(path, 'no such file')}, found {sha256}"


def _training_problems(directory: Path, stored: Card) -> Iterator[str]:
    tokenizer = build_tokenizer(max_length=MODEL.n_positions)
    fresh = new_model(tokenizer, seed=stored.seed)
    losses = train_model(fresh, tokenizer, seed=stored.seed, steps=CHECK_MODEL_STEPS)
    for step, (expected, loss) in enumerate(zip(stored.check.model_losses, losses, strict=True)):
        if not abs(expected - loss) <= LOSS_TOLERANCE_NATS:
            yield f"model step {step}: expected a loss of {expected:.4f}, found {loss:.4f}"
    sae = _short_sae_run(_shipped(directory, seed=stored.seed))
    for metric in ("explained_variance", "l2_ratio"):
        expected, value = getattr(stored.check.sae, metric), getattr(sae, metric)
        if not abs(expected - value) <= SCORE_TOLERANCE:
            yield f"sae {metric}: expected {expected:.4f}, found {value:.4f}"


def _shipped(directory: Path, *, seed: int) -> _Host:
    model = GPT2LMHeadModel.from_pretrained(directory / "model").eval()
    return _Host(model, build_tokenizer(max_length=MODEL.n_positions), seed)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "sae-lens")}


def _short_sae_run(host: _Host) -> SaeScores:
    recipe, n = SAES[0], CHECK_SAE_TRAINING.n_activations
    sample = _activations(host, [recipe.hook_name], "sae", n=n)[recipe.hook_name]
    sae = train_sae(recipe, sample, seed=host.seed, training=CHECK_SAE_TRAINING)
    return scores.score_sae(sae, sample)


def _activations(
    host: _Host, hook_names: Sequence[str], split: str, *, n: int
) -> dict[str, Tensor]:
    return activations.collect(
        host.model,
        host.tokenizer,
        hook_names=hook_names,
        corpus_seed=corpus.split_seed(split, seed=host.seed),
        n=n,
    )


def _heldout_ce(host: _Host) -> float:
    corpus_seed = corpus.split_seed("heldout", seed=host.seed)
    return scores.clean_ce(host.model, host.tokenizer, corpus_seed=corpus_seed, n=N_HELDOUT_STORIES)


def _cloze_scores(host: _Host) -> Iterator[tuple[str, ClozeScores]]:
    train_seed = corpus.split_seed("train", seed=host.seed)
    ngrams = scores.fit_ngrams(corpus.document(train_seed, i) for i in range(N_NGRAM_STORIES))
    for kind in corpus.KINDS:
        prompts = corpus.prompts(host.seed, N_PROMPTS, kind=kind)
        hits = scores.cloze_hits(host.model, host.tokenizer, prompts)
        accuracy = sum(hits) / N_PROMPTS
        yield kind, ClozeScores(N_PROMPTS, accuracy, scores.best_accuracy(ngrams, prompts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.zoo.build",
        description="Train the embedded zoo, a small GPT-2 and its sparse autoencoders, from its "
        "recipe (under an hour on 2 cores), or check that the shipped weights were built from it.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=WEIGHTS,
        metavar="DIR",
        help="where to write (default: in place)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--saes-only",
        action="store_true",
        help="train the SAEs of the model that is in DIR already, with the seed on its card; the "
        "model's files stay as they are (12 minutes on one core)",
    )
    parts.add_argument(
        "--check",
        action="store_true",
        help="write nothing: verify the hashes of the files in DIR, train a few steps of the "
        "model and of one SAE again, and compare with the card; exit 1 if they differ",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not options.check:
        rebuild_saes(options.out) if options.saes_only else build(options.out, seed=options.seed)
        _log.info("the zoo is in %s", options.out)
        return 0
    problems = check(options.out)
    for problem in problems:
        _log.error("mismatch: %s", problem)
    if not problems:
        _log.info("the zoo agrees with its card and its recipe")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
