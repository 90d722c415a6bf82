"""SAELens' converters, run on local directories (Gemma and Llama Scope) and checked downloads.

SAELens' converters ask the hub for each file, and read model, hook and width off the names of
repository and folder. For a directory, its files replace the downloads, and the names come from
its path. Whatever is downloaded is checked before SAELens opens it.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.archives import check_tensors_alone, npz_shapes
from saebench.formats.files import (
    PICKLES,
    Shape,
    check_memory,
    check_shapes,
    check_size,
    read_object,
    safetensors_shapes,
)
from saebench.formats.foreign import CROSS_LAYER, refuse_vision
from saebench.formats.saelens_config import check_activation
from saebench.formats.saelens_keys import check_keys, refuse_shadowing

# The only values with which Llama Scope's SAEs are read.
LLAMA_SCOPE_COMPUTES = {
    "act_fn": "jumprelu",
    "apply_decoder_bias_to_pre_encoder": False,
    "norm_activation": "dataset-wise",
    "use_decoder_bias": True,
    "use_glu_encoder": False,
}
_SNAPSHOT = re.compile(r"^/?snapshots/[^/]+/")  # of a Hugging Face cache
# Keys under which configurations give an SAE's sizes.
SIZES = ("d_in", "d_sae", "d_model", "act_size", "dict_size", "activation_dim", "num_latents")
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class Converted:
    """A format that is loaded by SAELens' converter.

    Attributes:
        name: what listings and messages call the format.
        config_file: a file that every directory of the format has.
        files: further such files.
        converters: patterns of names in a path, each with SAELens' converter for them.
        example: a path with such names.
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
        """Return the names of the weight files."""
        return self.files

    def config(self, directory: Path) -> None:
        """Check path and files; return None, since only the converters, with torch, know more.

        Raises:
            SubjectError: for a path that names no known release, or files whose sizes differ.
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
        """Return the SAE as SAELens converts it."""
        from sae_lens import SAE

        check_memory(directory, self._shapes(directory))
        try:
            sae = SAE.load_from_disk(directory, dtype="float32", converter=self._convert)
        except Exception as error:
            # The converters' parsing and building may raise anything.
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
        with _fetching(_from_directory(path, folder)):
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
        path = directory.absolute().as_posix()
        for pattern, converter in self.converters:
            match = re.search(pattern, path)
            if match is not None:
                folder = _SNAPSHOT.sub("", path[match.end() :]).lstrip("/")
                return converter, match[0].replace("--", "/"), folder or directory.name
        raise SubjectError(
            f"--sae {directory}: {self.name} directories say by their path which model and hook "
            f"they belong to; keep the names as published: {self.example}"
        )


def _from_directory(directory: Path, folder: str) -> Callable[..., str]:
    """Return a replacement of the hub's download function that gives a directory's files."""
    from huggingface_hub.utils import LocalEntryNotFoundError

    def fetch(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        inside = f"{subfolder}/{filename}" if subfolder else filename
        path = directory / inside.removeprefix(f"{folder}/")
        if not path.exists():
            raise LocalEntryNotFoundError(f"{path} does not exist (asked of {repo_id})")
        return str(path)

    return fetch


@contextmanager
def _fetching(fetch: Callable[..., str]) -> Iterator[None]:
    """Have SAELens' converters call ``fetch`` instead of the hub's download function.

    Shapes come from the fetched file too: SAELens asks the hub's server for them, which fails
    offline, and the file is needed anyway.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        header = safetensors_shapes(Path(fetch(repo_id, filename)))
        return {name: list(shape) for name, shape in header.items()}

    before = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = fetch, shapes
    try:
        yield
    finally:
        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = before


@contextmanager
def checked_downloads() -> Iterator[None]:
    """Check each file that SAELens' converters download, and have torch load tensors only.

    The converters call ``torch.load`` without ``weights_only``; one environment variable of torch
    can turn its default off, and another one forces it on.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders

    download, forced = loaders.hf_hub_download, os.environ.get(WEIGHTS_ONLY)

    def checked(*args: Any, **kwargs: Any) -> str:
        path = download(*args, **kwargs)
        check_download(Path(path))
        return path

    os.environ[WEIGHTS_ONLY] = "1"
    try:
        with _fetching(checked):
            yield
    finally:
        if forced is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = forced


def check_download(path: Path) -> None:
    """Refuse a downloaded file that could run code, or whose sizes are invalid.

    Raises:
        SubjectError: naming the file.
    """
    if path.suffix == ".json":
        _check_json(path)
    elif path.suffix == ".npz":
        check_memory(path, npz_shapes(path))
    elif path.suffix == ".safetensors":
        check_memory(path, safetensors_shapes(path))
    elif path.suffix in PICKLES:
        check_tensors_alone(path)


def _check_json(path: Path) -> None:
    """Check sizes, and in SAELens' own cfg.json the keys that SAELens would silently drop."""
    config, where = read_object(path), str(path)
    refuse_shadowing(config, where=where)
    inside = [value for value in config.values() if isinstance(value, dict)]
    for table in (config, *inside):
        for key in SIZES:
            if table.get(key):
                check_size(table, key, where=where)
    if path.name == "cfg.json":
        refuse_vision(config, where=where)
        check_keys(config, where=where)
        check_activation(config, where=where)


def _check_llama_scope(directory: Path) -> None:
    """Check hyperparams.json against the weights: SAELens builds a threshold of its width."""
    path = directory / LLAMA_SCOPE.config_file
    params, where = read_object(path), str(path)
    d_in, d_sae = (check_size(params, key, where=where) for key in ("d_model", "d_sae"))
    reads, writes = params.get("hook_point_in"), params.get("hook_point_out")
    if writes not in (None, reads):
        raise SubjectError(
            f"{path}: a transcoder, from {reads} to {writes}; Llama Scope's transcoders read the "
            "norm's output before its weights, where saebench cannot compare substitutions, so "
            "they are not judged"
        )
    for key, expected in LLAMA_SCOPE_COMPUTES.items():
        if params.get(key, expected) != expected:
            raise SubjectError(
                f"{path}: {key} is {params[key]!r}; Llama Scope's SAEs are read only with "
                f"{expected!r}"
            )
    _llama_scope_factor(directory)
    weights = directory / LLAMA_SCOPE.files[0]
    expected = {"encoder.weight": (d_sae, d_in), "decoder.weight": (d_in, d_sae)}
    check_shapes(safetensors_shapes(weights), expected, weights=weights, config_file=path.name)


def _llama_scope_factor(directory: Path) -> float:
    """Return the factor that scales Llama Scope's activations to a mean norm of √d."""
    path = directory / LLAMA_SCOPE.config_file
    params = read_object(path)
    try:
        norms = params["dataset_average_activation_norm"]
        if norms.get("out", norms["in"]) != norms["in"]:
            raise SubjectError(
                f"{path}: dataset_average_activation_norm is {norms['in']} at the SAE's input "
                f"and {norms['out']} at its output, which are one hook; correct one of them"
            )
        return params["d_model"] ** 0.5 / norms["in"]
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
