"""Layouts that SAELens converts and saebench has no reader of its own for: Gemma and Llama Scope.

SAELens' converters ask the hub for each file, and read model, hook and width off the names of
repository and folder. Here the files come from a directory, and the names from its path.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.archives import npz_shapes
from saebench.formats.files import (
    Shape,
    check_memory,
    check_shapes,
    check_size,
    read_object,
    safetensors_shapes,
)
from saebench.formats.foreign import CROSS_LAYER

# What Llama Scope's SAEs compute, by the keys that would say otherwise.
LLAMA_SCOPE_COMPUTES = {
    "act_fn": "jumprelu",
    "apply_decoder_bias_to_pre_encoder": False,
    "norm_activation": "dataset-wise",
    "use_decoder_bias": True,
    "use_glu_encoder": False,
}
_SNAPSHOT = re.compile(r"^/?snapshots/[^/]+/")  # of a Hugging Face cache


@dataclass(frozen=True)
class Converted:
    """A layout that SAELens converts.

    Attributes:
        name: what listings and messages call it.
        config_file: the file that marks it.
        files: further files that mark it.
        converters: names in a path, as a pattern, and SAELens' converter for them.
        example: a path that is understood.
    """

    name: str
    config_file: str
    files: tuple[str, ...]
    converters: tuple[tuple[str, str], ...]
    example: str

    def matches(self, directory: Path) -> bool:
        """Return whether the directory has the files."""
        return all((directory / name).exists() for name in (self.config_file, *self.files))

    def read_files(self, directory: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Return the weights that are read."""
        return self.files

    def config(self, directory: Path) -> None:
        """Return None, once the path is understood: the converters, which know, import torch.

        Raises:
            SubjectError: for a path that says too little, or files whose sizes differ.
        """
        _, _, folder = self._names(directory)
        if "clt" in folder:
            raise SubjectError(f"--sae {directory}: {CROSS_LAYER}")
        self._shapes(directory)
        if self.config_file == LLAMA_SCOPE.config_file:
            _check_llama_scope(directory)

    def _shapes(self, directory: Path) -> dict[str, Shape]:
        weights = directory / (self.files or (self.config_file,))[0]
        return npz_shapes(weights) if weights.suffix == ".npz" else safetensors_shapes(weights)

    def load(self, directory: Path, config: dict[str, Any]) -> Any:  # noqa: ARG002
        """Return what SAELens makes of the directory."""
        from sae_lens import SAE

        check_memory(directory, self._shapes(directory))
        try:
            sae = SAE.load_from_disk(directory, dtype="float32", converter=self._convert)
        except Exception as error:
            # The converters raise whatever their parsing or building raises.
            raise SubjectError(
                f"{directory}: SAELens cannot convert this {self.name} directory: {error!r}; it "
                f"reads facts off the names of a path such as {self.example}"
            ) from error
        if sae.cfg.normalize_activations == "expected_average_only_in":
            sae.fold_activation_norm_scaling_factor(_llama_scope_factor(directory))
        return sae

    def _convert(self, path: Any, device: str, cfg_overrides: Any) -> tuple[Any, Any]:
        from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

        converter, repository, folder = self._names(path)
        with _files_from(path, folder):
            config, state, _ = NAMED_PRETRAINED_SAE_LOADERS[converter](
                repo_id=repository,
                folder_name=folder,
                device=device,
                force_download=False,
                cfg_overrides=cfg_overrides,
            )
        return config, state

    def _names(self, directory: Path) -> tuple[str, str, str]:
        """Return SAELens' converter, and the names of repository and folder for it."""
        whole = directory.absolute().as_posix()
        for pattern, converter in self.converters:
            found = re.search(pattern, whole)
            if found is not None:
                folder = _SNAPSHOT.sub("", whole[found.end() :]).lstrip("/")
                return converter, found[0].replace("--", "/"), folder or directory.name
        raise SubjectError(
            f"--sae {directory}: {self.name} directories say by their path which model and hook "
            f"they belong to; keep the names as published: {self.example}"
        )


@contextmanager
def _files_from(directory: Path, folder: str) -> Iterator[None]:
    """Hand SAELens' converters a directory's files where they ask the hub for the folder's."""
    from huggingface_hub.utils import LocalEntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        asked = f"{subfolder}/{filename}" if subfolder else filename
        path = directory / asked.removeprefix(f"{folder}/")
        if not path.exists():
            raise LocalEntryNotFoundError(f"{path} does not exist (asked of {repo_id})")
        return str(path)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        found = safetensors_shapes(Path(local(repo_id, filename)))
        return {name: list(shape) for name, shape in found.items()}

    before = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
    try:
        yield
    finally:
        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = before


def _check_llama_scope(directory: Path) -> None:
    """Hold hyperparams.json against the weights: SAELens makes a threshold as wide as it says."""
    path = directory / LLAMA_SCOPE.config_file
    told, where = read_object(path), str(path)
    d_in, d_sae = (check_size(told, key, where=where) for key in ("d_model", "d_sae"))
    reads, writes = told.get("hook_point_in"), told.get("hook_point_out")
    if writes not in (None, reads):
        raise SubjectError(
            f"{path}: a transcoder, from {reads} to {writes}; what Llama Scope's read, the norm's "
            "output before its weights, is no place that a substitution can be compared at, so "
            "they are not judged"
        )
    for key, expected in LLAMA_SCOPE_COMPUTES.items():
        if told.get(key, expected) != expected:
            raise SubjectError(
                f"{path}: {key} is {told[key]!r}; Llama Scope's SAEs are read where it is "
                f"{expected!r}"
            )
    _llama_scope_factor(directory)
    weights = directory / LLAMA_SCOPE.files[0]
    expected = {"encoder.weight": (d_sae, d_in), "decoder.weight": (d_in, d_sae)}
    check_shapes(safetensors_shapes(weights), expected, weights=weights, config_file=path.name)


def _llama_scope_factor(directory: Path) -> float:
    """Return what Llama Scope multiplies activations with, so that their norm is √d."""
    path = directory / LLAMA_SCOPE.config_file
    told = read_object(path)
    try:
        norms = told["dataset_average_activation_norm"]
        if norms.get("out", norms["in"]) != norms["in"]:
            raise SubjectError(
                f"{path}: dataset_average_activation_norm is {norms['in']} of what the SAE reads "
                f"and {norms['out']} of what it writes, at one hook; which is it?"
            )
        return told["d_model"] ** 0.5 / norms["in"]
    except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise SubjectError(
            f"{path}: expected dataset_average_activation_norm.in above 0: {error!r}"
        ) from error


GEMMA_SCOPE = Converted(
    name="Gemma Scope",
    config_file="params.npz",
    files=(),
    converters=(
        (r"gemma-scope-(?:2b|9b|27b)-(?:pt|it)-(?:res|mlp|att)\b", "gemma_2"),
        (r"gemma-scope-(?:2b|9b|27b)-(?:pt|it)-transcoders\b", "gemma_2_transcoder"),
    ),
    example="gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
)
GEMMA_SCOPE_2 = Converted(
    name="Gemma Scope 2",
    config_file="params.safetensors",
    files=(),
    converters=((r"google(?:--|/)gemma-scope-2-(?:270m|1b|4b|12b|27b)-(?:pt|it)\b", "gemma_3"),),
    example="google/gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium",
)
LLAMA_SCOPE = Converted(
    name="Llama Scope",
    config_file="hyperparams.json",
    files=("checkpoints/final.safetensors",),
    converters=((r"^", "llama_scope"),),
    example="Llama3_1-8B-Base-L5R-8x",
)
CONVERTED = (GEMMA_SCOPE, GEMMA_SCOPE_2, LLAMA_SCOPE)
