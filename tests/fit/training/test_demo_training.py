"""On the embedded model: does training on the whole model's loss do what it is for?"""

import pytest

from saebench.cli import main
from saebench.experiments.base import SEQUENCES, Target
from saebench.experiments.prepare import benches_of, demo_documents
from saebench.experiments.texts import Texts
from saebench.options import Overrides, Packing, Settings
from saebench.progress import no_progress
from saebench.statistics.bootstrap import estimate
from saebench.subjects.host_loading import load_host
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.zoo import shelf as zoo

SAE = "demo:l2-topk"


def _tables(*specs):
    """Per-sequence sums of several SAEs on the same rows, cut as they are for training."""
    host = load_host(str(zoo.model_path()), device="cpu", dtype="float32", asked_by="test")
    subjects = [
        load_subject(reference, overrides=Overrides(), device="cpu")
        for reference in find_subjects(specs)
    ]
    settings = Settings(sequences=256, packing=Packing.PACKED)
    texts = Texts(demo_documents("heldout"))
    (bench,) = benches_of(settings, [(subject, host) for subject in subjects], texts)
    targets = [Target((subject,), ("sae",)) for subject in subjects]
    found = SEQUENCES.on(bench).measure(targets, progress=no_progress).measurements
    return [found[subject.id].table() for subject in subjects]


def test_frozen_training_lowers_the_models_kl_at_equal_l0(tmp_path):
    out = tmp_path / "out"
    code = main(
        ["train", "--objective", "frozen", "--hook", "blocks.2.hook_resid_pre", "--init", SAE,
         "--expansion", "4", "--sparsity", "topk:8", "--context", "64", "--tokens", "20000",
         "--learning-rate", "3e-4", "-o", str(out)]
    )  # fmt: skip
    assert code == 0
    before, after = _tables(SAE, str(out))
    sides = {"before": before["sae.kl"], "after": after["sae.kl"], "n": before["n.scored"]}
    change = estimate(lambda sums: (sums["after"] - sums["before"]) / sums["n"], sides)
    assert change.interval.high < 0
    l0 = [side["l0"].sum() / side["n.scored"].sum() for side in (before, after)]
    assert l0[0] == pytest.approx(l0[1], abs=0.1)
