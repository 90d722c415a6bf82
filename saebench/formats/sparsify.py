"""EleutherAI sparsify directories: cfg.json and sae.safetensors, named after the module."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.errors import SubjectError, nearest
from saebench.formats.files import (
    Shape,
    check_memory,
    check_shapes,
    check_size,
    read_object,
    safetensors_shapes,
)
from saebench.formats.metadata import NOTES
from saebench.formats.saelens_keys import SPARSIFY, SPARSIFY_HARMLESS, check_keys

if TYPE_CHECKING:
    from torch import nn

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
RUN_FILE = "config.json"
ACTIVATIONS = ("topk", "groupmax")
_MODULE = re.compile(r"(?:[A-Za-z]\w*\.)*[A-Za-z]+[._]\d+(?:\.\w+)*")
_SEED = re.compile(r"seed\d+")


class Sparsify:
    """Directories written by sparsify's trainer, one for each module that it was trained on.

    SAELens' converter for them is not used: it transposes the decoder that sparsify keeps as
    ``[latents, d]``, and leaves ``b_dec`` out of the input (sae_lens 6.54, sparsify 1.3).
    """

    name = "sparsify"
    config_file = CONFIG_FILE

    def matches(self, directory: Path) -> bool:
        """Return whether cfg.json lies beside sparsify's weights, and not beside SAELens'."""
        names = (CONFIG_FILE, WEIGHTS_FILE)
        return (
            all((directory / name).exists() for name in names)
            and not (directory / "sae_weights.safetensors").exists()
        )

    def read_files(self, directory: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Return the weights that are read."""
        return (WEIGHTS_FILE,)

    def config(self, directory: Path) -> dict[str, Any]:
        """Return cfg.json in SAELens' terms, with what the training run's config.json adds."""
        path = directory / CONFIG_FILE
        told = read_object(path)
        told["transcode"] = _transcodes(told, directory, where=str(path))
        config = described(told, where=str(path))
        notes = check_keys(told, where=str(path), known=SPARSIFY | SPARSIFY_HARMLESS)
        _check_weights(directory, told, config["d_in"], config["d_sae"])
        metadata = _metadata(directory, transcodes=bool(told.get("transcode")))
        return config | {"metadata": metadata, NOTES: notes}

    def load(self, directory: Path, config: dict[str, Any]) -> "nn.Module":
        """Return the SAE or transcoder, in fp32."""
        from saebench.formats.sparse_coder import SparseCoder

        weights = directory / WEIGHTS_FILE
        check_memory(weights, safetensors_shapes(weights))
        try:
            return SparseCoder.from_file(weights, config["sparsify"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise SubjectError(f"{weights}: does not fit {CONFIG_FILE}: {error!r}") from error


def described(told: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return sparsify's configuration in SAELens' terms.

    Raises:
        SubjectError: for sizes that are none or do not fit, and an activation that is not known.
    """
    d_in = check_size(told, "d_in", where=where)
    d_sae = _latents(told, d_in, where=where)
    activation = told.get("activation", "topk")
    if activation not in ACTIVATIONS:
        raise SubjectError(
            f"{where}: unknown activation {activation!r}{nearest(str(activation), ACTIVATIONS)}"
        )
    k = check_size(told, "k", where=where)
    if k > d_sae or (activation == "groupmax" and d_sae % k):
        raise SubjectError(f"{where}: {activation} of k={k} does not fit {d_sae} latents")
    return {
        "architecture": _architecture(told),
        "d_in": d_in,
        "d_out": d_in,
        "d_sae": d_sae,
        "k": k,
        "sparsify": told,
    }


def hooks_of_module(name: str, *, transcodes: bool) -> dict[str, Any]:
    """Return the hooks that sparsify's name of a module means; nothing for another name."""
    if not _MODULE.fullmatch(name):
        return {}
    module = re.sub(r"^layers_(?=\d)", "layers.", name)
    return {
        "hook_name": f"{module}.input" if transcodes else module,
        "hook_name_out": module if transcodes else None,
    }


def _latents(told: dict[str, Any], d_in: int, *, where: str) -> int:
    """Return their number; 0 in cfg.json means the expansion factor's."""
    if told.get("num_latents"):
        return check_size(told, "num_latents", where=where)
    return check_size(
        {"d_sae": d_in * check_size(told, "expansion_factor", where=where)}, "d_sae", where=where
    )


def _architecture(told: dict[str, Any]) -> str:
    kind = "abstopk" if told.get("signed") else told.get("activation", "topk")
    return f"{kind}_transcoder" if told.get("transcode") else kind


def _check_weights(directory: Path, told: dict[str, Any], d_in: int, d_sae: int) -> None:
    weights = directory / WEIGHTS_FILE
    found = safetensors_shapes(weights)
    wide: Shape = (d_sae, d_in)
    expected: dict[str, Shape] = {
        "encoder.weight": wide, "W_dec": wide, "encoder.bias": (d_sae,), "b_dec": (d_in,),
    }  # fmt: skip
    if told.get("skip_connection"):
        expected["W_skip"] = (d_in, d_in)
    missing, further = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise SubjectError(f"{weights}: {missing[0]} is missing, found {sorted(found)}")
    if further:
        said = (
            f"skip_connection={told.get('skip_connection')!r}, transcode={told.get('transcode')!r}"
        )
        raise SubjectError(
            f"{weights}: holds {', '.join(further)}, which {CONFIG_FILE} ({said}) has no use for; "
            "save it again with the sparsify that trained it"
        )
    check_shapes(found, expected, weights=weights, config_file=CONFIG_FILE)


def _run(directory: Path) -> tuple[str, dict[str, Any]]:
    """Return the name that says where the SAE belongs, and the run's config.json above it."""
    place = directory.resolve()
    place = place.parent if _SEED.fullmatch(place.name) else place
    run = place.parent / RUN_FILE
    return place.name, read_object(run) if run.exists() else {}


def _transcodes(told: dict[str, Any], directory: Path, *, where: str) -> bool:
    """Return whether it predicts a module's output of its input, as cfg.json or the run says.

    Raises:
        SubjectError: where the two differ, or neither says it of one with a skip connection.
    """
    _, run = _run(directory)
    inner = run.get("sae")
    above = run.get("transcode", inner.get("transcode") if isinstance(inner, dict) else None)
    here = told.get("transcode")
    if here is not None and above is not None and bool(here) != bool(above):
        raise SubjectError(
            f"{where}: says transcode={here!r}, and the run's {RUN_FILE} above it {above!r}; "
            "which is it?"
        )
    if here is None and above is None and told.get("skip_connection"):
        raise SubjectError(
            f"{where}: has a skip connection, as transcoders do, and says nothing of transcode; "
            'write "transcode": true or false into it'
        )
    return bool(above if here is None else here)


def _metadata(directory: Path, *, transcodes: bool) -> dict[str, Any]:
    """Return where the SAE belongs: its directory's name, and the run's config.json above it."""
    name, told = _run(directory)
    metadata = {
        "model_name": told.get("model"),
        "dataset_path": told.get("dataset"),
        "context_size": told.get("ctx_len"),
        "model_class_name": "AutoModelForCausalLM",
    }
    return metadata | hooks_of_module(name, transcodes=transcodes)
