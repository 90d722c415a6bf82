"""Ids of SAEs: each a function of its own path or SPEC, whatever else is in the run."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from saebench.errors import SubjectError
from saebench.shown import plain_text

# Words of which names of places, sizes, kinds and checkpoints are made: they tell two SAEs of one
# training run apart, and not two runs. Numbers, also with a unit (16k, 2b), are such words too.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """
    absolute abstopk ae aes anneal att attention attn autoencoder autoencoders
    autoencoderstandard average b batch batchtopk best big block blocks canonical
    checkpoint checkpoints chkpt ckpt ckpts coder coders coeff coefficient context
    crosscoder ctx current d default dict dictionaries dictionary epoch epochs exp
    expansion experiment experiments ffn final finetuned folded gated gpt h hidden hook in
    input iter iteration iterations job jobs jump jumprelu k l l0 l1 lambda large last
    latest layer layers lr m main matryoshka medium mid mlp model models n neox out output
    outputs panneal params post pre q ratio relu res resid residual result results run
    runs sae saelens saes seed seeds self small snapshot snapshots sparsify standard
    states step steps stream tc token tokens top topk train trained trainer trainers
    training transcoder transcoders transformer trial trials v vanilla version weights
    width x z
    """,
    )
)
_NUMBER = re.compile(r"\d+[a-z]?")
_NAMED = re.compile(r"([^=/\\:*?\[\]]+)=(.+)", re.DOTALL)
_CACHED = re.compile(r"(?:models|datasets)--([^/]+?)--([^/]+)/snapshots/[0-9a-f]{40}(?:/|$)")


def id_of(path: Path) -> str:
    """Return the end of a path that tells its SAE from others: ``mine``, or ``mine/layer_3``.

    Folders that are called alike in every training run, such as ``layer_3`` or ``sae``, do not
    stand alone: the ones above come before them, up to the first that has a name of its own.

    Args:
        path: resolved; one in the hub's cache is read as its repository's.

    Example:
        >>> id_of(Path("/saes/stories-l2-standard"))
        'stories-l2-standard'
        >>> id_of(Path("/work/mine/checkpoints/layer_3/sae"))
        'mine/checkpoints/layer_3/sae'
    """
    repository, inside = in_cache(path)
    if repository is not None:
        return plain_text(f"{repository}/{inside}".rstrip("/"))
    parts = [part for part in path.parts if part != path.anchor]
    begin = len(parts) - 1
    while begin > 0 and _is_common(parts[begin]):
        begin -= 1
    return plain_text("/".join(parts[max(begin, 0) :])) or plain_text(str(path))


def in_cache(path: Path) -> tuple[str | None, str]:
    """Return the repository, and the folder in it, that a path in the hub's cache is a copy of."""
    found = _CACHED.search(path.as_posix())
    if found is None:
        return None, ""
    return f"{found[1]}/{found[2]}", path.as_posix()[found.end() :]


def _is_common(part: str) -> bool:
    """True for a name that is made of common words and numbers alone.

    Example:
        >>> [_is_common(part) for part in ("blocks.8.hook_resid_pre", "l0_71", "tiny-l2")]
        [True, True, False]
    """
    words = re.findall(r"[a-z0-9]+", part.lower())
    return all(_NUMBER.fullmatch(w) or w.rstrip("0123456789") in _COMMON for w in words)


def given_name(spec: str) -> tuple[str | None, str]:
    """Return the name that a SPEC such as ``mine=runs/3/sae`` gives its SAE, and the rest.

    Example:
        >>> given_name("mine=runs/3/sae"), given_name("runs/a=3/sae")
        (('mine', 'runs/3/sae'), (None, 'runs/a=3/sae'))
    """
    found = _NAMED.fullmatch(spec)
    return (found[1], found[2]) if found else (None, spec)


def refuse_equal(named: Iterable[tuple[str, str]]) -> None:
    """Refuse two SAEs of one id: results and baselines could not tell them apart.

    Args:
        named: ids, each with where its SAE lies.

    Raises:
        SubjectError: naming both, and how to name them.
    """
    known: dict[str, str] = {}
    for id, place in named:
        if id in known:
            one, two = _suggested(known[id], place)
            raise SubjectError(
                f"--sae: two SAEs would both be called {id!r}: {known[id]} and {place}; name them, "
                f"such as --sae {one}={known[id]} --sae {two}={place}"
            )
        known[id] = place


def _suggested(*places: str) -> Iterator[str]:
    """Give a name for each place: the first folder in which they differ, before the last one."""
    split = [Path(place).parts for place in places]
    for parts, number in zip(split, (1, 2), strict=True):
        other = split[2 - number]
        apart = [p for p, q in zip(parts, other, strict=False) if p != q and p not in "/."]
        word = re.sub(r"[^A-Za-z0-9._-]+", "_", apart[0]) if apart else str(number)
        yield f"{re.sub(r'[^A-Za-z0-9._-]+', '_', parts[-1])}-{word}"
