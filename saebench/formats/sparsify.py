"""EleutherAI sparsify's format: cfg.json and sae.safetensors, in a directory named by module."""

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
    """Directories written by sparsify's trainer, one for each hooked module.

    SAELens' converter is not used: it transposes the decoder, which sparsify stores as
    ``[latents, d]``, and does not subtract ``b_dec`` from the input (sae_lens 6.54, sparsify 1.3).
    """

    name = "sparsify"
    config_file = CONFIG_FILE

    def matches(self, directory: Path) -> bool:
        """Return whether there are cfg.json and sparsify's weights, and not SAELens' weights."""
        names = (CONFIG_FILE, WEIGHTS_FILE)
        return (
            all((directory / name).exists() for name in names)
            and not (directory / "sae_weights.safetensors").exists()
        )

    def read_files(self, directory: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Return the name of the weight file."""
        return (WEIGHTS_FILE,)

    def config(self, directory: Path) -> dict[str, Any]:
        """Return cfg.json in SAELens' terms, completed by the training run's config.json."""
        path = directory / CONFIG_FILE
        declared = read_object(path)
        declared["transcode"] = _transcodes(declared, directory, where=str(path))
        config = described(declared, where=str(path))
        notes = check_keys(declared, where=str(path), known=SPARSIFY | SPARSIFY_HARMLESS)
        _check_weights(directory, declared, config["d_in"], config["d_sae"])
        metadata = _metadata(directory, transcodes=bool(declared.get("transcode")))
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


def described(config: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return sparsify's configuration in SAELens' terms.

    Raises:
        SubjectError: for invalid or contradicting sizes, and an unknown activation.
    """
    d_in = check_size(config, "d_in", where=where)
    d_sae = _latents(config, d_in, where=where)
    activation = config.get("activation", "topk")
    if activation not in ACTIVATIONS:
        raise SubjectError(
            f"{where}: unknown activation {activation!r}{nearest(str(activation), ACTIVATIONS)}"
        )
    k = check_size(config, "k", where=where)
    if k > d_sae or (activation == "groupmax" and d_sae % k):
        raise SubjectError(f"{where}: {activation} of k={k} does not fit {d_sae} latents")
    return {
        "architecture": _architecture(config),
        "d_in": d_in,
        "d_out": d_in,
        "d_sae": d_sae,
        "k": k,
        "sparsify": config,
    }


def hooks_of_module(name: str, *, transcodes: bool) -> dict[str, Any]:
    """Return the hooks of a module by sparsify's name for it; empty for other names."""
    if not _MODULE.fullmatch(name):
        return {}
    module = re.sub(r"^layers_(?=\d)", "layers.", name)
    return {
        "hook_name": f"{module}.input" if transcodes else module,
        "hook_name_out": module if transcodes else None,
    }


def _latents(config: dict[str, Any], d_in: int, *, where: str) -> int:
    """Return the number of latents; 0 in cfg.json means d_in times the expansion factor."""
    if config.get("num_latents"):
        return check_size(config, "num_latents", where=where)
    return check_size(
        {"d_sae": d_in * check_size(config, "expansion_factor", where=where)}, "d_sae", where=where
    )


def _architecture(config: dict[str, Any]) -> str:
    kind = "abstopk" if config.get("signed") else config.get("activation", "topk")
    return f"{kind}_transcoder" if config.get("transcode") else kind


def _check_weights(directory: Path, config: dict[str, Any], d_in: int, d_sae: int) -> None:
    weights = directory / WEIGHTS_FILE
    shapes = safetensors_shapes(weights)
    wide: Shape = (d_sae, d_in)
    expected: dict[str, Shape] = {
        "encoder.weight": wide, "W_dec": wide, "encoder.bias": (d_sae,), "b_dec": (d_in,),
    }  # fmt: skip
    if config.get("skip_connection"):
        expected["W_skip"] = (d_in, d_in)
    missing, further = sorted(set(expected) - set(shapes)), sorted(set(shapes) - set(expected))
    if missing:
        raise SubjectError(f"{weights}: {missing[0]} is missing, found {sorted(shapes)}")
    if further:
        settings = ", ".join(f"{k}={config.get(k)!r}" for k in ("skip_connection", "transcode"))
        raise SubjectError(
            f"{weights}: holds {', '.join(further)}, unused with {CONFIG_FILE} ({settings}); "
            "save it again with the version of sparsify that trained it"
        )
    check_shapes(shapes, expected, weights=weights, config_file=CONFIG_FILE)


def _run(directory: Path) -> tuple[str, dict[str, Any]]:
    """Return the directory's name, which names the module, and the run's config.json above it."""
    place = directory.resolve()
    place = place.parent if _SEED.fullmatch(place.name) else place
    run = place.parent / RUN_FILE
    return place.name, read_object(run) if run.exists() else {}


def _transcodes(config: dict[str, Any], directory: Path, *, where: str) -> bool:
    """Return whether it predicts a module's output from its input, by cfg.json or the run's.

    Raises:
        SubjectError: where the two differ, or neither says it and there is a skip connection.
    """
    _, run = _run(directory)
    inner = run.get("sae")
    above = run.get("transcode", inner.get("transcode") if isinstance(inner, dict) else None)
    here = config.get("transcode")
    if here is not None and above is not None and bool(here) != bool(above):
        raise SubjectError(
            f"{where}: says transcode={here!r}, but the run's {RUN_FILE} above it {above!r}; "
            "correct one of them"
        )
    if here is None and above is None and config.get("skip_connection"):
        raise SubjectError(
            f"{where}: has a skip connection, as transcoders have, but no 'transcode'; "
            'write "transcode": true or false into it'
        )
    return bool(above if here is None else here)


def _metadata(directory: Path, *, transcodes: bool) -> dict[str, Any]:
    """Return the SAE's metadata, from its directory's name and the run's config.json above it."""
    name, run = _run(directory)
    metadata = {
        "model_name": run.get("model"),
        "dataset_path": run.get("dataset"),
        "context_size": run.get("ctx_len"),
        "model_class_name": "AutoModelForCausalLM",
    }
    return metadata | hooks_of_module(name, transcodes=transcodes)
