"""The factor or matrix that training normalised activations with: in the weights, or yet to fold.

SAELens scales activations so that their mean norm is √d while it trains
(``expected_average_only_in``), or whitens them (``covariance_whitening``). At the end of training
it folds that into the weights. Versions 3 to 5 then write the configuration as if they had not;
version 6 keeps the two apart, and puts what is to be folded beside a checkpoint.
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
SCALER_FILE = "activation_scaler.json"  # version 6, beside a checkpoint
STORE_FILE = "activations_store_state.safetensors"  # version 5.2 on, beside every checkpoint
WHITENING_FILE = "activation_whitening.safetensors"
_FACTOR = "estimated_norm_scaling_factor"


@dataclass(frozen=True)
class Normalised:
    """An SAE whose weights hold its normalisation, or wait for an estimate of it.

    Attributes:
        sae: the SAE; a copy where it had to be changed and was given as an object.
        notes: what was folded, and by whose word.
        waits: its factor is estimated once the run's texts are read.
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
    """Fold an SAE's normalisation into its weights, by the user's word or the files' beside it.

    Args:
        sae: a SAELens SAE, or any module.
        overrides: what the user says.
        source: what messages call it.
        directory: where its files lie.
        version: of SAELens, as its configuration says.
        given: it is somebody's object, which is left as it was.

    Raises:
        SubjectError: where nothing tells the factor, or whether it is folded.
    """
    kind = getattr(getattr(sae, "cfg", None), "normalize_activations", "none")
    told = overrides.norm_factor
    if kind not in (SCALED, WHITENED):
        unused = f"--sae-norm-factor {told} changes nothing: the SAE names no such normalisation"
        return Normalised(sae, (unused,) if told is not None else ())
    if given:
        sae = copy.deepcopy(sae)
    if told == FOLDED:
        return _taken_as_folded(sae, f"{kind} taken as folded into the weights, as told", version)
    if kind == WHITENED:
        return _unwhitened(sae, directory, source=source)
    if told is not None:
        return _scaled_by(sae, told, source=source)
    found = None if directory is None else _beside(directory, version)
    if found == FOLDED:
        said = f"the normalisation's factor is in the weights: {STORE_FILE} has none left"
        return _taken_as_folded(sae, said, version)
    if not isinstance(found, float):
        raise SubjectError(_unknown(source, directory, version))
    return _scaled_by(sae, found, source=source)


def folded_by(subject: Subject, factor: float, *, note: str) -> Subject:
    """Return an SAE with a factor folded into copied weights."""
    sae = copy.deepcopy(subject.sae)
    _fold(sae, factor)
    metadata = replace(subject.metadata, notes=(*subject.metadata.notes, note))
    found = Subject(sae, id=subject.id, source=subject.source, metadata=metadata)
    found.expected_explained_variance = subject.expected_explained_variance
    return found


def _scaled_by(sae: Any, factor: str | float, *, source: str) -> Normalised:
    if getattr(sae.cfg, "d_out", None) is not None:
        raise SubjectError(
            f"{source}: a transcoder with normalize_activations={SCALED!r}: its factor scales what "
            "it reads, and nothing says what it writes; expected weights with the factor folded "
            f"in (--sae-norm-factor {FOLDED})"
        )
    if factor == ESTIMATE:
        return Normalised(sae, waits=True)
    _fold(sae, float(factor))
    return Normalised(sae, (f"normalisation factor {float(factor):.6g} folded into the weights",))


def _fold(sae: Any, factor: float) -> None:
    """Fold a factor in place; what matching pursuit stops at is a norm of scaled activations."""
    threshold = getattr(sae.cfg, "residual_threshold", None)
    sae.fold_activation_norm_scaling_factor(factor)
    if threshold is not None:
        # SAELens before 6.54.12 leaves it as it was.
        sae.cfg.residual_threshold = threshold / factor


def _taken_as_folded(sae: Any, note: str, version: str | None) -> Normalised:
    sae.cfg.normalize_activations = "none"
    late = ()
    if is_before(version, (4, 1)):
        late = (
            f"SAELens {version} left b_dec out when it folded the factor: judged as it was saved",
        )
    return Normalised(sae, (note, *late))


def _beside(directory: Path, version: str | None) -> float | str | None:
    """Return the factor in the files beside the weights, FOLDED, or None where none tells."""
    scaler, store = directory / SCALER_FILE, directory / STORE_FILE
    if scaler.exists():
        factor = read_object(scaler).get("scaling_factor")
        return None if factor is None else _checked(factor, scaler)
    # Version 6 writes a store of this name too, and never the factor into it.
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


def _unwhitened(sae: Any, directory: Path | None, *, source: str) -> Normalised:
    """Fold the whitening that version 6 keeps beside a checkpoint."""
    path = None if directory is None else directory / WHITENING_FILE
    if path is None or not path.exists() or _is_left_over(path):
        raise SubjectError(
            f"{source}: normalize_activations={WHITENED!r} is not folded into the weights, and no "
            f"{WHITENING_FILE} lies beside them, where SAELens puts it at a checkpoint; take the "
            "checkpoint's directory as it was written, or the final SAE; where the weights hold "
            f"it, --sae-norm-factor {FOLDED}"
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
    """Return whether the scaler beside a whitening says that it is of an earlier checkpoint."""
    scaler = path.with_name(SCALER_FILE)
    return scaler.exists() and read_object(scaler).get("has_whitening") is False


def _unknown(source: str, directory: Path | None, version: str | None) -> str:
    by = f" by SAELens {version}" if version else ""
    final = directory is not None and directory.resolve().name.startswith("final_")
    hint = ", as its name final_… says of SAELens' last checkpoint" if final else ""
    return (
        f"{source}: normalize_activations={SCALED!r}, written{by}, and nothing beside the weights "
        "tells the factor or whether it is folded in. SAELens 3 to 5 fold it into the weights at "
        f"the end of training and leave this in cfg.json{hint}: --sae-norm-factor {FOLDED}. Of a "
        "checkpoint from before the end, or of SAELens 2, it is not folded: --sae-norm-factor "
        "NUMBER, as sae.fold_activation_norm_scaling_factor(NUMBER) does, or "
        f"{ESTIMATE} from this run's texts (from Python: norm_factor=…)"
    )
