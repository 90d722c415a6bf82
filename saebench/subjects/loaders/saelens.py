"""SAELens' own directories: cfg.json and sae_weights.safetensors."""

import tempfile
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.subjects.library_warnings import without_harmless
from saebench.subjects.loaders.files import (
    PICKLES,
    check_memory,
    check_shapes,
    read_object,
    safetensors_shapes,
)
from saebench.subjects.metadata import check_config

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
TRAINING_ONLY = ("batchtopk", "matryoshka_batchtopk")


class SAELens:
    """Directories written by SAELens' ``save_model`` and ``save_inference_model``."""

    name = "SAELens"
    config_file = CONFIG_FILE

    def matches(self, directory: Path) -> bool:
        """Return whether there is a cfg.json and no other layout's weights."""
        mine = (directory / WEIGHTS_FILE).exists()
        return (directory / CONFIG_FILE).exists() and (
            mine or not (directory / "sae.safetensors").exists()
        )

    def config(self, directory: Path) -> dict[str, Any]:
        """Return cfg.json, held against the weights' header."""
        path = directory / CONFIG_FILE
        config = read_object(path)
        check_config(config, where=str(path))
        _check_weights(directory, config)
        return config

    def load(self, directory: Path, config: dict[str, Any]) -> Any:
        """Return the SAE in its inference form, its normalisation folded where it can be."""
        from sae_lens import SAE, TrainingSAE

        weights = directory / WEIGHTS_FILE
        check_memory(weights, safetensors_shapes(weights))
        dtype = "float64" if config.get("dtype") == "float64" else "float32"
        try:
            if config.get("architecture") in TRAINING_ONLY:
                sae = inference_sae(TrainingSAE.load_from_disk(str(directory), dtype=dtype))
            else:
                sae = SAE.load_from_disk(str(directory), dtype=dtype)
        except Exception as error:
            # SAELens builds the module from the file's own values; whatever it raises is theirs.
            raise SubjectError(f"{directory}: SAELens cannot load it: {error}") from error
        return _normalisation_folded(sae, directory)


def inference_sae(training: Any) -> Any:
    """Return SAELens' inference form: BatchTopK then uses its threshold, not the batch."""
    from sae_lens import SAE

    with tempfile.TemporaryDirectory() as directory, without_harmless():
        training.save_inference_model(directory)
        return SAE.load_from_disk(directory)


def _check_weights(directory: Path, config: dict[str, Any]) -> None:
    weights = directory / WEIGHTS_FILE
    if not weights.exists():
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise refused_pickle(directory / pickles[0])
        raise SubjectError(f"{weights}: missing; a SAELens directory holds it beside {CONFIG_FILE}")
    d_in, d_sae = config["d_in"], config["d_sae"]
    expected = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, config.get("d_out", d_in))}
    found = safetensors_shapes(weights)
    check_shapes(found, expected, weights=weights, config_file=CONFIG_FILE)


def refused_pickle(path: Path) -> SubjectError:
    """Return the error for weights that come as a pickle of no known layout."""
    return SubjectError(
        f"--sae {path}: a pickle can run code when it is opened, so it is refused; save the SAE "
        f"with SAELens' save_model, which writes {CONFIG_FILE} and {WEIGHTS_FILE}"
    )


def _normalisation_folded(sae: Any, directory: Path) -> Any:
    """Fold the training's activation scale into the weights, where its factor is at hand."""
    scaler = directory / "activation_scaler.json"
    if sae.cfg.normalize_activations == "expected_average_only_in" and scaler.exists():
        factor = read_object(scaler).get("scaling_factor")
        if not isinstance(factor, int | float) or not 0 < factor < float("inf"):
            raise SubjectError(f"{scaler}: scaling_factor must be above 0, found {factor!r}")
        sae.fold_activation_norm_scaling_factor(factor)
    return sae
