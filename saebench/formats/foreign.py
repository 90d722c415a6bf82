"""Files of tools whose formats are not read: which tool wrote them, and how to judge their SAEs.

Another tool's SAE cannot be saved with SAELens' ``save_model``, but :func:`saebench.judge` judges
any torch module.
"""

import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.files import LARGEST_CONFIG_BYTES, PICKLES, read_object

JUDGE = 'saebench.judge(sae, "MODEL", "TEXTS.jsonl", hook="blocks.LAYER.hook_resid_pre")'
TRANSCODES = (
    'saebench.judge(sae, "MODEL", "TEXTS.jsonl", hook="model.layers.LAYER.mlp.input", '
    'hook_out="blocks.LAYER.hook_mlp_out")'
)
_LARGEST_PICKLE = 1 << 22
_VISION_CLASSES = re.compile(r"(?i)vit|vision|clip|siglip|dino")
_VISION_MODELS = re.compile(
    r"(?i)(?:^|[-_/:. ])(?:vit|clip|siglip2?|dinov?\d?|vjepa)(?:[-_/:. ]|$)"
)
_VISION_KEYS = ("cls_token_only", "image_size", "use_patches_only", "vit_model_cfg")


@dataclass(frozen=True)
class Tool:
    """A tool that is recognised by its files.

    Attributes:
        name: the tool's name and, in messages, what its files are.
        wrote: whether the tool wrote a directory or file.
        lines: Python code that judges one of its SAEs; ``{path}`` is replaced by the path.
    """

    name: str
    wrote: Callable[[Path], bool]
    lines: tuple[str, ...]

    def advice(self, path: Path) -> str:
        """Return the tool's name, and Python code that judges its SAE."""
        code = [line.replace("{path}", str(path)) for line in self.lines]
        return "\n".join([f"files of {self.name}; judge it from Python:", *code])


def tool_of(path: Path) -> Tool | None:
    """Return the tool that wrote a directory or file; None for an unknown one."""
    return next((tool for tool in TOOLS if tool.wrote(path)), None)


def refused_pickle(path: Path) -> SubjectError:
    """Return the error for pickled weights that no format reads."""
    tool = tool_of(path) or tool_of(path.parent)
    if tool is not None:
        return SubjectError(f"--sae {path}: {tool.advice(path)}")
    return SubjectError(
        f"--sae {path}: a pickle can run code when it is opened, so it is refused; judge the SAE "
        "from Python, loaded by the code that made it (a torch module with encode and decode); one "
        "of SAELens' own classes is written without a pickle by its save_model:\n"
        "import saebench\n"
        f"sae = YourSAE(...); sae.load_state_dict(torch.load({str(path)!r}, weights_only=True))\n"
        f"{JUDGE}"
    )


def refuse_vision(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse an SAE of a vision model.

    Raises:
        SubjectError: naming the key that says so.
    """
    inside = config.get("metadata")
    values = {**config, **(inside if isinstance(inside, dict) else {})}
    kind, model = str(values.get("model_class_name", "")), str(values.get("model_name", ""))
    reason = next((f"{key} is in it" for key in _VISION_KEYS if values.get(key)), None)
    if _VISION_CLASSES.search(kind):
        reason = f"model_class_name is {kind!r}"
    elif _VISION_MODELS.search(model):
        reason = f"model_name is {model!r}"
    if reason:
        raise SubjectError(
            f"{where}: an SAE of a vision model ({reason}); saebench judges by what a causal "
            "language model predicts of texts, and there is none here"
        )


def _has(*patterns: str) -> Callable[[Path], bool]:
    """Return a predicate: is it a directory with a file of each pattern?"""
    return lambda path: path.is_dir() and all(any(path.glob(p)) for p in patterns)


def _yaml_says(pattern: str) -> Callable[[Path], bool]:
    """Return a predicate: does a directory's config.yaml match the pattern?"""
    line = re.compile(pattern, re.MULTILINE)

    def says(path: Path) -> bool:
        file = path / "config.yaml"
        if not file.is_file() or file.stat().st_size > LARGEST_CONFIG_BYTES:
            return False
        return line.search(file.read_text(encoding="utf-8", errors="replace")) is not None

    return says


def _json_says(*keys: str) -> Callable[[Path], bool]:
    """Return a predicate: does a directory's config.json set one of the keys?"""
    return lambda path: any(_object(path / "config.json").get(key) for key in keys)


def _object(file: Path) -> dict[str, Any]:
    """Return a file's JSON object; an empty one where the file is missing or invalid."""
    try:
        return read_object(file) if file.is_file() else {}
    except SubjectError:
        return {}


def _is_cross_layer(path: Path) -> bool:
    of_circuit_tracer = _has("W_enc_*.safetensors", "W_dec_*.safetensors")(path)
    of_gemma_scope = "clt" in path.parts[-3:] and any(path.glob("params_layer_*.safetensors"))
    of_llamascopium = _object(path / "config.json").get("sae_type") == "clt"
    return of_circuit_tracer or of_gemma_scope or of_llamascopium or _CLT_YAML(path)


def _pickled(*words: str) -> Callable[[Path], bool]:
    """Return a predicate: are all the words among a pickle's texts? It is not unpickled."""
    return lambda path: set(words) <= pickled_texts(path)


def pickled_texts(path: Path) -> set[str]:
    """Return the texts in a ``torch.save`` pickle, read as data; an empty set for other files."""
    if path.suffix not in PICKLES or not path.is_file():
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            names = [m for m in archive.infolist() if m.filename.endswith("data.pkl")]
            if len(names) != 1 or names[0].file_size > _LARGEST_PICKLE:
                return set()
            instructions = list(pickletools.genops(archive.read(names[0])))
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return set()
    return {argument for _, argument, _ in instructions if isinstance(argument, str)}


def _is_deeplens(path: Path) -> bool:
    of_training = re.fullmatch(r"best_model|sae_(?:step|epoch)_\d+", path.stem) is not None
    return path.suffix == ".pt" and of_training and path.parent.name.startswith("run_")


def _is_e2e(path: Path) -> bool:
    directory = path if path.is_dir() else path.parent
    return _has("final_config.yaml", "*.pt")(directory)


_CLT_YAML = _yaml_says(r"^model_kind:\s*['\"]?cross_layer_transcoder")
CROSS_LAYER = (
    "a cross-layer transcoder (CLT): each layer's features write to all later layers, so no single "
    "layer reconstructs an activation. saebench judges SAEs and single-layer transcoders, which "
    "read at one hook and write at one. A module that computes the sum over all layers up to one "
    "can be judged there, from Python: saebench.judge(module, hook=…, hook_out=…)"
)
# A wrapper for modules whose forward pass does not decode the result of their encode.
_WRAP = "sae = torch.nn.Module(); sae.inner, sae.encode, sae.decode = inner, {0}"
TOOLS: tuple[Tool, ...] = (
    Tool(
        "circuit-tracer: a set of single-layer transcoders",
        _yaml_says(r"^model_kind:\s*['\"]?transcoder_set"),
        (
            "from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder; "
            'inner = load_relu_transcoder("{path}/layer_0.safetensors", 0, lazy_encoder=False, '
            "lazy_decoder=False)",
            _WRAP.format("inner.encode, lambda f: f @ inner.W_dec + inner.b_dec")
            + "; sae.W_skip = inner.W_skip",
            TRANSCODES,
        ),
    ),
    Tool(
        "llamascopium (Language-Model-SAEs)",
        _json_says("sae_type"),
        (
            "from llamascopium import SparseDictionary",
            'sae = SparseDictionary.from_pretrained("{path}", fold_activation_scale=True)',
            JUDGE + "  # and hook_out=… where hook_point_out is another hook",
        ),
    ),
    Tool(
        "e2e_sae",
        _is_e2e,
        (
            "from e2e_sae import SAETransformer; inner = "
            'SAETransformer.from_local_path("{path}").saes["blocks-LAYER-hook_resid_pre"]',
            _WRAP.format(
                "inner.encoder, "
                "lambda c: torch.nn.functional.linear(c, inner.dict_elements, inner.decoder.bias)"
            ),
            JUDGE,
        ),
    ),
    Tool(
        "deeplens",
        _is_deeplens,
        (
            "from deeplens.sae import SparseAutoencoder; inner = SparseAutoencoder(**config); "
            'inner.load_state_dict(torch.load("{path}", weights_only=True))',
            _WRAP.format("lambda x: inner(x)[1], inner.decode") + "  # encode leaves TopK out",
            JUDGE,
        ),
    ),
    Tool(
        "mi-crow",
        _pickled("mi_crow_metadata", "sae_state_dict"),
        (
            "from mi_crow.mechanistic.sae.modules import TopKSae  # or L1Sae, as it was trained",
            'inner = TopKSae.load(Path("{path}")); '
            + _WRAP.format("inner.encode, inner.decode").replace("= inner,", "= inner.sae_engine,"),
            JUDGE,
        ),
    ),
    Tool(
        "SAELens 1 or 2 (save_model_legacy)",
        lambda path: path.name.endswith(".pkl.gz") or _pickled("cfg", "state_dict")(path),
        (
            "# in an environment with sae-lens==2.1.3",
            "from sae_lens.training.sparse_autoencoder import SparseAutoencoder",
            'SparseAutoencoder.load_from_pretrained_legacy("{path}").save_model("DIRECTORY")',
            "# then: --sae DIRECTORY",
        ),
    ),
)


def described(directory: Path) -> str | None:
    """Describe a directory of another tool and how to judge it; None for an unknown one."""
    if _is_cross_layer(directory):
        return CROSS_LAYER
    for name in ("config.json", "cfg.json"):
        refuse_vision(_object(directory / name), where=str(directory / name))
    tool = tool_of(directory)
    return tool.advice(directory) if tool is not None else None
