"""The forward pass of EleutherAI sparsify's SAEs and transcoders."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

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


class SparseCoder(nn.Module):
    """f = select_k(relu(W_enc·(x − b_dec) + b_enc)), x̂ = W_dec·f + b_dec (+ W_skip·x).

    ``select_k`` keeps the k largest (topk), the largest of each of k groups (groupmax), or, where
    ``signed``, the k largest in size and no relu. Transcoders leave b_dec out of the input; those
    from before sparsify had ``activation`` in its configuration do not.

    Args:
        tensors: the weights under sparsify's names.
        told: sparsify's cfg.json.

    Source:
        EleutherAI sparsify 1.3 (``SparseCoder``), and its version of November 2024 (``Sae``).
    """

    def __init__(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        super().__init__()
        self.k: int = told["k"]
        self.signed = bool(told.get("signed"))
        self.groups = told.get("activation") == "groupmax"
        self.centres = not told.get("transcode") or "activation" not in told
        self.W_enc = nn.Parameter(tensors["encoder.weight"].float().T.contiguous())
        self.b_enc = nn.Parameter(tensors["encoder.bias"].float())
        self.W_dec = nn.Parameter(tensors["W_dec"].float())
        self.b_dec = nn.Parameter(tensors["b_dec"].float())
        if told.get("skip_connection"):
            self.W_skip = nn.Parameter(tensors["W_skip"].float())

    @classmethod
    def from_file(cls, weights: Path, told: Mapping[str, Any]) -> "SparseCoder":
        """Read a sae.safetensors."""
        return cls(load_file(weights), told)

    def encode(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens latents"]:
        """Return the latents, all but the selected ones 0; the skip connection is not in them."""
        found = (x - self.b_dec if self.centres else x) @ self.W_enc + self.b_enc
        found = found if self.signed else found.relu()
        kept = self._selected(found)
        return torch.zeros_like(found).scatter(-1, kept, found.gather(-1, kept))

    def _selected(self, found: Tensor) -> Tensor:
        if not self.groups:
            size = found.abs() if self.signed else found
            return size.topk(self.k, dim=-1).indices
        best = found.unflatten(-1, (self.k, -1)).argmax(dim=-1)
        starts = torch.arange(0, found.shape[-1], found.shape[-1] // self.k, device=found.device)
        return starts + best

    def decode(self, latents: Float[Tensor, "tokens latents"]) -> Float[Tensor, "tokens d"]:
        """Return the reconstruction, without the skip connection."""
        return latents @ self.W_dec + self.b_dec


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
        pass

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
