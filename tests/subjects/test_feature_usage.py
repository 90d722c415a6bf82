"""How features are used: the dense and the sparse path against a loop over tokens."""

import pytest
import torch
from families import make_subject
from torch import nn

from saebench.subjects.features import Active, Usage, Watch

TOKENS, FEATURES, GROUPS = 300, 12, 5


def _features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(TOKENS, FEATURES, generator=generator)
    drawn[:, 3] = 0
    drawn[1:, 4] = 0
    drawn[10:, 5] = 0
    return torch.where(drawn.abs() > 1, drawn, torch.zeros(()))


def _watch(groups: int = GROUPS) -> Watch:
    generator = torch.Generator().manual_seed(1)
    group = torch.randint(groups, (TOKENS,), generator=generator)
    return Watch(group, groups, torch.tensor([2, 7]))


def _by_loops(features: torch.Tensor, norm: torch.Tensor, watch: Watch) -> dict[str, list]:
    mass, places = [0.0] * FEATURES, [set() for _ in range(FEATURES)]
    chosen = [0.0] * len(features)
    for t, row in enumerate(features.tolist()):
        for f, value in enumerate(row):
            mass[f] += abs(value) * float(norm[f])
            chosen[t] += abs(value) * float(norm[f]) * (f in watch.chosen.tolist())
            if value != 0:
                places[f].add(int(watch.group[t]) + 1)
    return {
        "mass": mass, "chosen_mass": chosen,
        "lowest": [min(p, default=0) for p in places],
        "highest": [max(p, default=0) for p in places],
    }  # fmt: skip


def _check(usage: Usage, expected: dict[str, list]) -> None:
    for name, values in expected.items():
        found = getattr(usage, name).double()
        torch.testing.assert_close(found, torch.tensor(values).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, GROUPS, 254, 255, 4000])
def test_both_paths_are_a_loop_over_tokens_for_few_groups_and_many(groups):
    features, norm, watch = _features(), torch.rand(FEATURES) + 0.5, _watch(groups)
    expected = _by_loops(features, norm, watch)
    assert expected["lowest"][3] == 0
    _check(Usage.dense(features.abs(), features != 0, norm, watch), expected)
    _check(Usage.sparse(Active.of(features), norm, watch), expected)


@pytest.mark.parametrize("size", [1, 7, 299, 300])
def test_usage_of_parts_joined_is_that_of_the_whole(size):
    features, norm, watch = _features(), torch.ones(FEATURES), _watch()
    parts = [
        Usage.dense(rows.abs(), rows != 0, norm, some)
        for rows, some in zip(features.split(size), watch.split(size), strict=True)
    ]
    _check(Usage.joined(parts), _by_loops(features, norm, watch))


class _Signed(nn.Module):
    """A plain module: features are the activation's large components."""

    def __init__(self) -> None:
        super().__init__()
        self.W_dec = nn.Parameter(2 * torch.eye(FEATURES))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.abs() > 1, x, torch.zeros(()))

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.W_dec + 1


def test_a_subject_records_what_is_watched_and_its_constant_output():
    subject = make_subject(_Signed(), "blocks.1.hook_resid_pre")
    features, watch = _features(), _watch()
    found = subject.reconstruct(features, watch=watch)
    assert found.usage is not None
    _check(found.usage, _by_loops(features, torch.full((FEATURES,), 2.0), watch))
    assert found.l1_unit.sum().item() == pytest.approx(float(found.usage.mass.sum()), rel=1e-5)
    assert torch.equal(subject.constant_output(features), torch.ones(FEATURES).double())
    fired, mass = subject.fired_on(features)
    assert torch.equal(fired, features != 0)
    torch.testing.assert_close(mass, found.usage.mass)
    assert subject.reconstruct(features).usage is None
