"""SAELens' own format: cfg.json and sae_weights.safetensors."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.files import PICKLES, Shape, check_memory, read_object, safetensors_shapes
from saebench.formats.foreign import refuse_vision, refused_pickle
from saebench.formats.library_warnings import without_harmless
from saebench.formats.metadata import NOTES, check_config, metadata_of
from saebench.formats.saelens_config import FACTORS, check_weights, for_saelens, settled
from saebench.formats.saelens_keys import check_keys, is_before

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
RUNNER_FILE = "runner_cfg.json"  # next to the final SAE, where the runner had an output_path
SCALED = "expected_average_only_in"
_VERSION = "sae_lens_training_version"
TRAINING_ONLY = ("batchtopk", "matryoshka_batchtopk")


class SAELens:
    """Directories written by SAELens' ``save_model`` and ``save_inference_model``."""

    name = "SAELens"
    config_file = CONFIG_FILE

    def matches(self, directory: Path) -> bool:
        """Return whether there is a cfg.json and no weights of sparsify alone."""
        has_weights = (directory / WEIGHTS_FILE).exists()
        return (directory / CONFIG_FILE).exists() and (
            has_weights or not (directory / "sae.safetensors").exists()
        )

    def read_files(self, directory: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Return the name of the weight file."""
        return (WEIGHTS_FILE,)

    def config(self, directory: Path) -> dict[str, Any]:
        """Return cfg.json in version 6's terms, checked against the weights' header."""
        path, weights = directory / CONFIG_FILE, directory / WEIGHTS_FILE
        stored, where = read_object(path), str(path)
        refuse_vision(stored, where=where)
        notes = check_keys(stored, where=where)
        config = settled(stored, _shapes(weights), where=where)
        check_config(config, where=where)
        check_weights(config, _shapes(weights), weights)
        is_transcoder = config["architecture"].endswith("transcoder")
        if "apply_b_dec_to_input" not in stored and not is_transcoder:
            notes += (f"{CONFIG_FILE} has no apply_b_dec_to_input: taken as true, as SAELens does",)
        return config | {NOTES: (*notes, *_threshold_note(directory, config))}

    def load(self, directory: Path, config: dict[str, Any]) -> Any:
        """Return the SAE in its inference form; its normalisation is not folded yet."""
        from sae_lens import SAE, TrainingSAE

        weights = directory / WEIGHTS_FILE
        check_memory(weights, safetensors_shapes(weights))
        kind = TrainingSAE if config.get("architecture") in TRAINING_ONLY else SAE
        try:
            sae = kind.load_from_disk(directory, converter=partial(_read, weights, config))
        except SubjectError:
            raise
        except Exception as error:
            # SAELens builds the module from the file's values and may raise anything.
            raise SubjectError(f"{directory}: SAELens cannot load it: {error}") from error
        return inference_sae(sae) if kind is TrainingSAE else sae


def _read(
    weights: Path, config: dict[str, Any], *_: Any, **__: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return configuration and weights in version 6's terms, from which SAELens builds the SAE."""
    import torch
    from safetensors.torch import load_file

    dtype = torch.float64 if config.get("dtype") == "float64" else torch.float32
    state = {name: tensor.to(dtype) for name, tensor in load_file(weights).items()}
    for name in FACTORS:
        # decode multiplies each feature by it: it is folded into the decoder's rows.
        if name in state:
            state["W_dec"] = state["W_dec"] * state.pop(name)[:, None]
    if "log_threshold" in state:
        state["threshold"] = state.pop("log_threshold").exp()
    if "topk_threshold" in state and not state["topk_threshold"] > 0:
        raise SubjectError(
            f"{weights}: its BatchTopK threshold is {float(state['topk_threshold']):g}: it was "
            "saved before training set it; take a later checkpoint"
        )
    own = {"dtype": str(dtype).removeprefix("torch."), "device": "cpu"}
    return for_saelens(config) | own, state


def _threshold_note(directory: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Note a BatchTopK threshold that SAELens did not rescale together with the weights.

    Before 6.54.12 it divided the decoder by the normalisation's factor but not the threshold,
    which is in units of the decoder's norm. The factor is not stored.
    """
    data = metadata_of(config)
    details, version = data.get("training_architecture_details"), data.get(_VERSION)
    runner = directory / RUNNER_FILE
    rescaled = isinstance(details, dict) and details.get("rescale_acts_by_decoder_norm")
    batched = data.get("training_architecture") in TRAINING_ONLY and rescaled
    if not batched or not is_before(version, (6, 54, 12)) or not runner.exists():
        return ()
    trained = read_object(runner).get("sae")
    if not isinstance(trained, dict) or trained.get("normalize_activations") != SCALED:
        return ()
    return (
        f"SAELens {version} left the BatchTopK threshold out when it folded the normalisation's "
        "factor: judged as it was saved, by a threshold off by that factor",
    )


def _shapes(weights: Path) -> dict[str, Shape]:
    """Return the shapes in the weights' header.

    Raises:
        SubjectError: where the file is missing, naming pickled weights that lie there instead.
    """
    if weights.exists():
        return safetensors_shapes(weights)
    pickles = sorted(p for p in weights.parent.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise refused_pickle(pickles[0])
    raise SubjectError(f"{weights}: missing; a SAELens directory has it next to {CONFIG_FILE}")


def inference_sae(training: Any) -> Any:
    """Return SAELens' inference form, in which BatchTopK uses its threshold, not the batch."""
    from sae_lens import SAE

    with tempfile.TemporaryDirectory() as directory, without_harmless():
        training.save_inference_model(directory)
        return SAE.load_from_disk(directory)
