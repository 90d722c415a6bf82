"""Each intervention satisfies its definition in docs/metrics.md, checked by numpy alone."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from saebench.errors import OptionError, UndefinedDirection
from saebench.measures.names import INTERVENTIONS
from saebench.substitution.interventions import BankErrors, Tokens, largest, substitute
from saebench.substitution.reference import Reference, ReferenceSums

SEQUENCES, POSITIONS, D = 12, 30, 16
AT_ERROR_DISTANCE = ("eps_random", "cov_random", "real_difference", "error_shuffled")
# fp32 vectors of length 5 and 16 components: lengths and cosines are right to some 1e-6.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _reference(x: torch.Tensor, sequence: torch.Tensor, position: torch.Tensor) -> Reference:
    sums = ReferenceSums(D, tokens=len(x))
    sums.update(x, sequence, position)
    return sums.compute(torch.device("cpu"))


def _tokens(seed: int = 0) -> Tokens:
    sequence, position = torch.ones(SEQUENCES, POSITIONS).nonzero(as_tuple=True)
    mixing = torch.randn(D, D, generator=_generator(7))
    x = torch.randn(len(sequence), D, generator=_generator(seed)) @ mixing + 1
    x_hat = 0.8 * x + 0.5 * torch.randn(x.shape, generator=_generator(seed + 1))
    reference = _reference(x, sequence, position)
    l0 = torch.arange(len(x)).remainder(D + 2).float()
    bank = BankErrors.of(reference.bank, 0.9 * x_hat, unread_mean=False)
    return Tokens(x, x_hat, l0, sequence, position, reference, bank, seed=5)


def _numpy(name: str, tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    changed = substitute(name, tokens)
    return tuple(t.double().numpy() for t in (tokens.x, tokens.x_hat, changed))


def _cos(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def _norm(a: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a, axis=-1)


def test_sae_is_the_reconstruction_and_zero_is_zero():
    tokens = _tokens()
    assert torch.equal(substitute("sae", tokens), tokens.x_hat)
    assert torch.equal(substitute("zero", tokens), torch.zeros_like(tokens.x))


def test_mean_is_the_mean_of_the_reference():
    x, _, changed = _numpy("mean", _tokens())
    np.testing.assert_allclose(changed, np.tile(x.mean(0), (len(x), 1)), **CLOSE)


def test_norm_corrected_keeps_the_direction_of_x_hat_at_the_length_of_x():
    x, x_hat, changed = _numpy("norm_corrected", _tokens())
    np.testing.assert_allclose(_norm(changed), _norm(x), **CLOSE)
    np.testing.assert_allclose(_cos(changed, x_hat), 1.0, **CLOSE)


def test_sae_norm_keeps_the_direction_of_x_at_the_length_of_x_hat():
    x, x_hat, changed = _numpy("sae_norm", _tokens())
    np.testing.assert_allclose(_norm(changed), _norm(x_hat), **CLOSE)
    np.testing.assert_allclose(_cos(changed, x), 1.0, **CLOSE)


def _centred(tokens: Tokens) -> np.ndarray:
    """Return e - ē of each token, ē the mean error on the bank."""
    bank = (tokens.reference.bank - 0.9 * tokens.x_hat).double().numpy()
    return (tokens.x - tokens.x_hat).double().numpy() - bank.mean(0)


@pytest.mark.parametrize("name", AT_ERROR_DISTANCE)
def test_random_errors_have_the_length_of_the_saes_centred_error(name: str):
    tokens = _tokens()
    x, x_hat, changed = _numpy(name, tokens)
    np.testing.assert_allclose(_norm(changed - x), _norm(_centred(tokens)), **CLOSE)
    assert _cos(changed - x, x_hat - x).max() < 0.999


def test_the_uncentred_random_error_has_the_length_of_the_error_and_the_same_direction():
    tokens = _tokens()
    x, x_hat, changed = _numpy("eps_random_uncentred", tokens)
    np.testing.assert_allclose(_norm(changed - x), _norm(x_hat - x), **CLOSE)
    centred = _numpy("eps_random", tokens)[2]
    np.testing.assert_allclose(_cos(changed - x, centred - x), 1.0, **CLOSE)


@pytest.mark.parametrize("name", AT_ERROR_DISTANCE)
def test_an_offset_of_the_output_does_not_change_the_random_errors(name: str):
    tokens, offset = _tokens(), torch.linspace(-3, 3, D)
    bank = BankErrors.of(tokens.reference.bank, 0.9 * tokens.x_hat + offset, unread_mean=False)
    moved = replace(tokens, x_hat=tokens.x_hat + offset, bank=bank)
    torch.testing.assert_close(substitute(name, moved), substitute(name, tokens))


def test_an_error_that_the_model_does_not_read_does_not_make_noise_larger():
    tokens = _tokens()
    bank = replace(tokens.bank, unread_mean=True)
    shift = 9 * torch.randn(len(tokens.x), 1, generator=_generator(3))
    blind, moved = (
        replace(tokens, x_hat=tokens.x_hat + by, bank=bank) for by in (0 * shift, shift)
    )
    torch.testing.assert_close(moved.radius, blind.radius, rtol=1e-4, atol=1e-4)
    assert (blind.radius <= tokens.radius + 1e-5).all()


def _largest_components(tokens: Tokens, k: np.ndarray) -> np.ndarray:
    """Return x_pca token by token, as its definition reads."""
    x = tokens.x.double().numpy()
    mean, basis = x.mean(0), np.linalg.eigh(np.cov(x.T, bias=True))[1]
    rows = []
    for row, count in zip(x, k, strict=True):
        along = basis.T @ (row - mean)
        chosen = np.argsort(-np.abs(along), kind="stable")[: int(count)]
        rows.append(mean + sum((along[j] * basis[:, j] for j in chosen), np.zeros(D)))
    return np.stack(rows)


def test_pca_matched_keeps_as_many_components_as_features_are_active():
    tokens = _tokens()
    changed = _numpy("pca_matched", tokens)[2]
    expected = _largest_components(tokens, tokens.l0.numpy())
    np.testing.assert_allclose(changed, expected, rtol=1e-4, atol=1e-4)


def test_a_number_of_components_is_the_same_at_every_token():
    tokens = _tokens()
    changed = _numpy("pca[3]", tokens)[2]
    expected = _largest_components(tokens, np.full(len(tokens.x), 3))
    np.testing.assert_allclose(changed, expected, rtol=1e-4, atol=1e-4)


def test_all_components_give_back_the_activation():
    x, _, changed = _numpy(f"pca[{D}]", _tokens())
    np.testing.assert_allclose(changed, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [slice(0, 7), slice(100, 101), slice(3, 300)])
def test_components_do_not_depend_on_the_batch(rows: slice):
    tokens = _tokens()
    part = replace(tokens, **{n: getattr(tokens, n)[rows]
                              for n in ("x", "x_hat", "l0", "sequence", "position")})  # fmt: skip
    torch.testing.assert_close(
        substitute("pca_matched", part), substitute("pca_matched", tokens)[rows]
    )


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 9])
def test_ties_between_components_go_to_the_first(k: int):
    values = torch.tensor([[0.0, -2.0, 2.0, 1.0, 2.0]])
    order = [1, 2, 4, 3, 0]
    expected = [i in order[:k] for i in range(5)]
    assert largest(values, torch.tensor([float(k)])).tolist() == [expected]


def test_components_of_activations_that_are_not_finite_are_undefined():
    tokens = _tokens()
    reference = replace(tokens.reference, basis=torch.zeros(D, D))
    with pytest.raises(UndefinedDirection, match="covariance is not finite"):
        substitute("pca_matched", replace(tokens, reference=reference))


@pytest.mark.parametrize("name", ["theta_random_x", "theta_random_sae"])
def test_random_angles_are_the_saes_angle_at_the_right_length(name: str):
    x, x_hat, changed = _numpy(name, _tokens())
    np.testing.assert_allclose(_cos(changed, x), _cos(x_hat, x), **CLOSE)
    np.testing.assert_allclose(_norm(changed), _norm(x if name.endswith("_x") else x_hat), **CLOSE)


def test_the_random_part_of_an_angle_is_orthogonal_to_x_and_isotropic():
    x, _, changed = _numpy("theta_random_x", _tokens())
    unit = x / _norm(x)[:, None]
    across = changed - (changed * unit).sum(-1, keepdims=True) * unit
    # What is left of x in `across` is rounding of changed, of size 5.
    assert np.abs((across * unit).sum(-1)).max() < 1e-12
    across /= _norm(across)[:, None]
    # A mean of 360 unit vectors of 16 components has length about 1/√360 = 0.053.
    assert _norm(across.mean(0)) < 3 / len(x) ** 0.5


def test_eps_random_points_in_every_direction_alike():
    x, _, changed = _numpy("eps_random", _tokens())
    direction = (changed - x) / _norm(changed - x)[:, None]
    assert _norm(direction.mean(0)) < 3 / len(x) ** 0.5
    # E[uuᵀ] = I/d; an entry's standard error is about 1/(d·√n).
    moments = direction.T @ direction / len(x)
    assert np.abs(moments - np.eye(D) / D).max() < 5 * 2**0.5 / D / len(x) ** 0.5


def test_different_interventions_use_different_noise():
    x, _, eps = _numpy("eps_random", _tokens())
    _, _, theta = _numpy("theta_random_x", _tokens())
    assert np.abs(_cos(eps - x, theta - x)).max() < 0.999


def _many(d: int, n: int) -> Tokens:
    """Return tokens with x = 0 ± a covariance that is easy to see: variances 1, 4, 9, …"""
    zero = torch.zeros(n, d)
    spread = torch.arange(1, d + 1).double()
    turned = torch.linalg.qr(torch.randn(d, d, generator=_generator(1)).double())[0]
    reference = Reference(
        mean=zero[0].double(), factor=torch.linalg.cholesky(turned @ spread.square().diag()
        @ turned.T), basis=turned.float(), bank=zero,
        sequence=torch.arange(n), position=torch.arange(n),
        by_kind=torch.arange(n), kind_start=torch.arange(n), kind_size=torch.ones(n).long(),
    )  # fmt: skip
    x_hat = torch.ones(n, d) / d**0.5
    bank = BankErrors.of(zero, zero, unread_mean=False)
    place = (torch.arange(n), torch.arange(n))
    return Tokens(zero, x_hat, torch.ones(n), *place, reference, bank, seed=0)


def test_cov_random_directions_are_those_of_gaussians_with_the_covariance():
    tokens = _many(d=6, n=40_000)
    unit = substitute("cov_random", tokens).double().numpy()  # ε = 1
    factor = tokens.reference.factor.numpy()
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 40_000, 6))
    drawn = (z[0] - z[1]) @ factor.T
    drawn /= _norm(drawn)[:, None]
    # Two independent samples of n unit vectors: an entry differs by √(2·Var/n) ≤ 0.004, by 5 of it.
    assert np.abs(unit.T @ unit - drawn.T @ drawn).max() / 40_000 < 5 * (2 * 0.25 / 40_000) ** 0.5
    assert np.abs(unit.T @ unit / 40_000 - np.eye(6) / 6).max() > 0.1


def test_the_references_factor_gives_back_numpys_covariance():
    tokens = _tokens()
    x = tokens.x.double().numpy()
    covariance = np.cov(x.T, bias=True)
    ridge = 1e-6 * np.trace(covariance) / D * np.eye(D)
    factor = tokens.reference.factor.numpy()
    # float64; the covariance is a difference of moments some ten times its size.
    np.testing.assert_allclose(factor @ factor.T, covariance + ridge, rtol=1e-10, atol=1e-10)


def test_real_differences_are_differences_of_two_other_tokens():
    tokens = _tokens()
    x, _, changed = _numpy("real_difference", tokens)
    picked = tokens.others("real_difference").numpy()
    own = np.arange(len(x))  # the bank holds every token, in order
    assert (picked[:, 0] != own).all()
    assert (picked[:, 1] != own).all()
    assert (picked[:, 0] != picked[:, 1]).all()
    difference = x[picked[:, 0]] - x[picked[:, 1]]
    np.testing.assert_allclose(_cos(changed - x, difference), 1.0, **CLOSE)


def test_shuffled_errors_are_errors_of_another_token():
    tokens = _tokens()
    x, _, changed = _numpy("error_shuffled", tokens)
    errors = tokens.bank.centred(tokens.bank.errors).double().numpy()
    cosine = (changed - x) @ errors.T / (_norm(changed - x)[:, None] * _norm(errors))
    source = cosine.argmax(axis=1)
    np.testing.assert_allclose(cosine.max(axis=1), 1.0, **CLOSE)
    assert (source != np.arange(len(x))).all()
    assert len(set(source)) > len(x) / 2


def test_the_others_of_a_small_reference_never_are_the_token_itself():
    tokens = _tokens()
    few = [0, 1, 2, 3]
    reference = _reference(tokens.x[few], tokens.sequence[few], tokens.position[few])
    for seed in range(50):
        small = replace(
            tokens, x=tokens.x[few], sequence=tokens.sequence[few],
            position=tokens.position[few], reference=reference, seed=seed,
        )  # fmt: skip
        picked = small.others("real_difference")
        assert (picked != torch.tensor(few)[:, None]).all()
        assert (picked[:, 0] != picked[:, 1]).all()


def test_equal_activations_are_not_subtracted_from_each_other():
    tokens = _tokens()
    x = tokens.x.clone()
    x[torch.arange(len(x)) % 3 > 0] = tokens.x[0]  # two thirds of the tokens are one and the same
    reference = _reference(x, tokens.sequence, tokens.position)
    same = replace(tokens, x=x, reference=reference)
    picked = same.others("real_difference")
    lengths = (x[picked[:, 0]] - x[picked[:, 1]]).norm(dim=-1)
    assert (lengths > 0).all()


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_inputs_are_left_as_they_are(name: str):
    tokens = _tokens()
    before = copy.deepcopy(tokens)
    substitute(name, tokens)
    for field in ("x", "x_hat", "l0"):
        assert torch.equal(getattr(tokens, field), getattr(before, field)), field
    assert torch.equal(tokens.bank.errors, before.bank.errors)
    for field in ("mean", "factor", "basis", "bank"):
        pair = getattr(tokens.reference, field), getattr(before.reference, field)
        assert torch.equal(*pair), field


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("norm_corrected", "x_hat"),
        ("sae_norm", "x"),
        ("theta_random_x", "x"),
        ("theta_random_sae", "x_hat"),
    ],
)
def test_an_undefined_direction_names_sequence_and_position(name: str, field: str):
    tokens = _tokens()
    value = getattr(tokens, field).clone()
    value[5 * POSITIONS + 17] = 0
    with pytest.raises(UndefinedDirection, match=f"{name}.*sequence 5, position 17"):
        substitute(name, replace(tokens, **{field: value}))


@pytest.mark.parametrize("name", ["cov_random", "real_difference"])
def test_constant_activations_leave_random_directions_undefined(name: str):
    tokens = _tokens()
    x = torch.ones_like(tokens.x)
    reference = _reference(x, tokens.sequence, tokens.position)
    bank = BankErrors.of(x, x, unread_mean=False)
    still = replace(tokens, x=x, reference=reference, bank=bank)
    with pytest.raises(UndefinedDirection, match=rf"{name}.*sequence 0, position 0"):
        substitute(name, still)


def test_too_few_tokens_to_draw_from_is_an_error():
    tokens = _tokens()
    reference = _reference(tokens.x[:3], tokens.sequence[:3], tokens.position[:3])
    with pytest.raises(UndefinedDirection, match="has 3"):
        substitute("real_difference", replace(tokens, reference=reference))


@pytest.mark.parametrize("name", AT_ERROR_DISTANCE)
def test_where_the_sae_is_exact_random_errors_have_length_zero(name: str):
    tokens = _tokens()
    bank = BankErrors.of(tokens.x, tokens.x, unread_mean=False)
    exact = replace(tokens, x_hat=tokens.x, bank=bank)
    assert torch.equal(substitute(name, exact), tokens.x)


def test_an_unknown_intervention_names_the_nearest():
    with pytest.raises(OptionError, match="eps_random"):
        substitute("eps_randm", _tokens())
