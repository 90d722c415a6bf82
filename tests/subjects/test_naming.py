"""Ids depend on a path alone, on as much of it as distinguishes training runs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import SubjectError
from saebench.subjects.references import given_name, id_of, refuse_equal

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/saes/stories260K-l2-standard", "stories260K-l2-standard"),
        ("/saes/smollm2-l8-topk32", "smollm2-l8-topk32"),
        ("/data/lions/layer_3", "lions/layer_3"),
        ("/data/lions/sae", "lions/sae"),
        ("/data/lions/checkpoints/final_500000", "lions/checkpoints/final_500000"),
        ("/data/lions/blocks.8.hook_resid_post", "lions/blocks.8.hook_resid_post"),
        ("/data/lions/resid_post_layer_8/trainer_0", "lions/resid_post_layer_8/trainer_0"),
        ("/data/lions/layers.5.mlp", "lions/layers.5.mlp"),
        ("/data/lions/12", "lions/12"),
        ("/data/gemma-scope/layer_20/width_16k/average_l0_71",
         "gemma-scope/layer_20/width_16k/average_l0_71"),
        ("/checkpoints/k3fq8z2a/final_500000", "k3fq8z2a/final_500000"),
        ("/layer_3/sae", "layer_3/sae"),
        (f"/hub/models--org--repo/snapshots/{REVISION}/lions/layer_3", "org/repo/lions/layer_3"),
        (f"/hub/models--org--repo/snapshots/{REVISION}", "org/repo"),
    ],
)  # fmt: skip
def test_names_that_every_training_run_has_do_not_stand_alone(path, expected):
    assert id_of(Path(path)) == expected


@given(st.lists(st.text("ab19_.", min_size=1, max_size=5), min_size=1, max_size=5))
def test_an_id_is_the_end_of_its_path(parts):
    path = Path("/", *(part for part in parts if part.strip(".")), "x")
    assert path.as_posix().endswith(f"/{id_of(path)}")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("mine=runs/3/sae", ("mine", "runs/3/sae")),
        ("mine=demo:l2-topk", ("mine", "demo:l2-topk")),
        ("mine=a=b", ("mine", "a=b")),
        ("runs/lr=3/sae", (None, "runs/lr=3/sae")),
        ("org/repo:lr=3", (None, "org/repo:lr=3")),
        ("release:a=b", (None, "release:a=b")),
        ("=x", (None, "=x")),
        ("x=", (None, "x=")),
    ],
)
def test_a_name_stands_before_the_first_equals_sign_of_a_spec(spec, expected):
    assert given_name(spec) == expected


def test_ids_that_differ_are_no_reason_to_refuse():
    refuse_equal([("a", "x/a"), ("b", "y/b")])
    with pytest.raises(SubjectError, match="'a': x/a and y/a"):
        refuse_equal([("a", "x/a"), ("b", "y/b"), ("a", "y/a")])
