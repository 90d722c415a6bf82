"""Activation normalisation of SAELens' training: folded into the weights already, or by us.

During training SAELens scales activations to a mean norm of √d (``expected_average_only_in``), or
whitens them (``covariance_whitening``), and folds that into the weights at the end. Versions 3 to
5 leave the configuration unchanged when they fold; version 6 changes it, and saves the factor or
matrix of a checkpoint, which is not folded, next to the weights.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.files import check_shapes, read_object, safetensors_shapes
from saebench.formats.saelens_keys import is_before
from saebench.options import ESTIMATE, FOLDED, Overrides
from saebench.subjects.sae import Subject

SCALED, WHITENED = "expected_average_only_in", "covariance_whitening"
SCALER_FILE = "activation_scaler.json"  # version 6, at a checkpoint
STORE_FILE = "activations_store_state.safetensors"  # version 5.2 on, at every checkpoint
WHITENING_FILE = "activation_whitening.safetensors"
_FACTOR = "estimated_norm_scaling_factor"


@dataclass(frozen=True)
class Normalised:
    """An SAE with its normalisation folded in, or waiting for an estimate of the factor.

    Attributes:
        sae: the SAE; a copy where an SAE object had to be changed.
        notes: notes on what was folded, and why.
        waits: whether its factor will be estimated from the run's texts.
    """

    sae: Any
    notes: tuple[str, ...] = ()
    waits: bool = False


def normalised(
    sae: Any,
    overrides: Overrides,
    *,
    source: str,
    directory: Path | None = None,
    version: str | None = None,
    given: bool = False,
) -> Normalised:
    """Fold an SAE's normalisation into its weights, by the user's option or the SAE's files.

    Args:
        sae: a SAELens SAE, or any module.
        overrides: the user's options.
        source: what messages call the SAE.
        directory: the SAE's directory.
        version: of SAELens, from the configuration.
        given: whether it is the user's object, which must not be changed.

    Raises:
        SubjectError: where the factor, or whether it is folded, is unknown.
    """
    kind = getattr(getattr(sae, "cfg", None), "normalize_activations", "none")
    factor = overrides.norm_factor
    if kind not in (SCALED, WHITENED):
        unused = f"--sae-norm-factor {factor} has no effect: the SAE names no such normalisation"
        return Normalised(sae, (unused,) if factor is not None else ())
    if given:
        sae = copy.deepcopy(sae)
    if factor == FOLDED:
        note = f"{kind} taken as folded into the weights: --sae-norm-factor"
        return _taken_as_folded(sae, note, version)
    if kind == WHITENED:
        return _with_whitening(sae, directory, source=source)
    if factor is not None:
        return _scaled_by(sae, factor, source=source)
    stored = None if directory is None else _stored_factor(directory, version)
    if stored == FOLDED:
        note = f"the normalisation's factor is in the weights: {STORE_FILE} has none left"
        return _taken_as_folded(sae, note, version)
    if not isinstance(stored, float):
        raise SubjectError(_unknown(source, directory, version))
    return _scaled_by(sae, stored, source=source)


def folded_by(subject: Subject, factor: float, *, note: str) -> Subject:
    """Return a copy of an SAE with a factor folded into its weights."""
    sae = copy.deepcopy(subject.sae)
    _fold(sae, factor)
    metadata = replace(subject.metadata, notes=(*subject.metadata.notes, note))
    folded = Subject(sae, id=subject.id, source=subject.source, metadata=metadata)
    folded.expected_explained_variance = subject.expected_explained_variance
    folded.promises = subject.promises
    return folded


def _scaled_by(sae: Any, factor: str | float, *, source: str) -> Normalised:
    if getattr(sae.cfg, "d_out", None) is not None:
        raise SubjectError(
            f"{source}: a transcoder with normalize_activations={SCALED!r}: its factor scales its "
            "input, and none is known for its output; expected weights with the factor folded in "
            f"(--sae-norm-factor {FOLDED})"
        )
    if factor == ESTIMATE:
        return Normalised(sae, waits=True)
    _fold(sae, float(factor))
    return Normalised(sae, (f"normalisation factor {float(factor):.6g} folded into the weights",))


def _fold(sae: Any, factor: float) -> None:
    """Fold a factor in place; matching pursuit's threshold is a norm of scaled activations."""
    threshold = getattr(sae.cfg, "residual_threshold", None)
    sae.fold_activation_norm_scaling_factor(factor)
    if threshold is not None:
        # SAELens before 6.54.12 does not scale it.
        sae.cfg.residual_threshold = threshold / factor


def _taken_as_folded(sae: Any, note: str, version: str | None) -> Normalised:
    sae.cfg.normalize_activations = "none"
    late = ()
    if is_before(version, (4, 1)):
        late = (
            f"SAELens {version} left b_dec out when it folded the factor: judged as it was saved",
        )
    return Normalised(sae, (note, *late))


def _stored_factor(directory: Path, version: str | None) -> float | str | None:
    """Return the factor in the SAE's files, FOLDED, or None where it is unknown."""
    scaler, store = directory / SCALER_FILE, directory / STORE_FILE
    if scaler.exists():
        factor = read_object(scaler).get("scaling_factor")
        return None if factor is None else _checked(factor, scaler)
    # Version 6 writes a store of this name too, without the factor.
    if not store.exists() or (version and not is_before(version, (6,))):
        return None
    if _FACTOR not in safetensors_shapes(store):
        return FOLDED
    from safetensors import safe_open

    with safe_open(store, framework="pt") as tensors:
        factor = tensors.get_tensor(_FACTOR)
    return _checked(factor.item() if factor.numel() == 1 else factor.tolist(), store)


def _checked(factor: Any, path: Path) -> float:
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not 0 < factor < float("inf"):
        raise SubjectError(f"{path}: scaling_factor must be above 0, found {factor!r}")
    return float(factor)


def _with_whitening(sae: Any, directory: Path | None, *, source: str) -> Normalised:
    """Fold the whitening that version 6 saves at a checkpoint."""
    path = None if directory is None else directory / WHITENING_FILE
    if path is None or not path.exists() or _is_left_over(path):
        raise SubjectError(
            f"{source}: normalize_activations={WHITENED!r} is not folded into the weights, and no "
            f"{WHITENING_FILE} is next to them, where SAELens saves it at a checkpoint; give the "
            "checkpoint's unchanged directory, or the final SAE; where it is folded into the "
            f"weights, --sae-norm-factor {FOLDED}"
        )
    from safetensors.torch import load_file

    d = sae.cfg.d_in
    expected = {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)}
    shapes = safetensors_shapes(path)
    if set(expected) - set(shapes):
        raise SubjectError(f"{path}: expected {sorted(expected)}, found {sorted(shapes)}")
    check_shapes(shapes, expected, weights=path, config_file="cfg.json")
    tensors = load_file(path)
    try:
        sae.fold_activation_whitening(tensors["mean"], tensors["matrix"], tensors["inverse_matrix"])
    except NotImplementedError as error:
        raise SubjectError(f"{source}: {error}") from error
    return Normalised(sae, (f"the whitening of {WHITENING_FILE} folded into the weights",))


def _is_left_over(path: Path) -> bool:
    """Return whether a whitening is an earlier checkpoint's, by the scaler next to it."""
    scaler = path.with_name(SCALER_FILE)
    return scaler.exists() and read_object(scaler).get("has_whitening") is False


def _unknown(source: str, directory: Path | None, version: str | None) -> str:
    by = f" by SAELens {version}" if version else ""
    final = directory is not None and directory.resolve().name.startswith("final_")
    hint = ", as its name final_… of a last checkpoint suggests" if final else ""
    return (
        f"{source}: normalize_activations={SCALED!r}, written{by}, and no file next to the "
        "weights has the factor or says that it is folded in. SAELens 3 to 5 fold it into the "
        f"weights at the end of training and leave cfg.json unchanged{hint}: --sae-norm-factor "
        f"{FOLDED}. Before the end, and in SAELens 2, it is not folded: --sae-norm-factor "
        "NUMBER, as sae.fold_activation_norm_scaling_factor(NUMBER) does, or "
        f"{ESTIMATE} from this run's texts (from Python: norm_factor=…)"
    )
