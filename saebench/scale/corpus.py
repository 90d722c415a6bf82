"""Statistics of the corpus, from a first pass over the run's first sequences, for all shards."""

import hashlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from saebench import __version__
from saebench.scale.codec import decode, encode
from saebench.scale.rundir import FORMAT
from saebench.substitution.reference import Reference

if TYPE_CHECKING:
    from saebench.judging.bench import Bench
    from saebench.scale.shards import Group


def gathered(bench: "Bench", group: "Group") -> bytes:
    """Run the first pass, and return what shards must know: Σ, means, a bank of activations."""
    wanted = group.subjects(bench)
    found = [
        [_arrays(each) for each in bench.statistics(tokens, wanted).values()]
        for tokens in bench.corpora(group.source, wanted)
    ]
    return encode(found)


def learn(bench: "Bench", group: "Group", data: bytes) -> None:
    """Take what a first pass found.

    Raises:
        StoreError: where these are no such bytes.
    """
    wanted = group.subjects(bench)
    sites, device = bench.sites(wanted), bench.host.device
    for tokens, found in zip(bench.corpora(group.source, wanted), decode(data), strict=True):
        references = [_reference(each, device) for each in found]
        bench.learn(tokens, dict(zip(sites, references, strict=True)))


def is_needed(bench: "Bench", group: "Group") -> bool:
    """True where a group's shards need a first pass."""
    return bool(bench.corpora(group.source, group.subjects(bench)))


def corpus_key(bench: "Bench", group: "Group", *, threads: int) -> str:
    """Name a first pass: the same for all sources of the same sequences and places."""
    wanted = group.subjects(bench)
    facts = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__],
        "model": [bench.model.weights_sha256, bench.model.dtype, bench.host.device.type],
        "places": [str(site) for site in bench.sites(wanted)],
        "data": [tokens.fingerprint for tokens in bench.corpora(group.source, wanted)],
        "batch_size": bench.settings.batch_size,
        "threads": threads,
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def _arrays(reference: Reference) -> dict[str, Any]:
    return {f.name: getattr(reference, f.name).cpu().numpy() for f in fields(reference)}


def _reference(arrays: dict[str, Any], device: torch.device) -> Reference:
    return Reference(**{name: torch.from_numpy(a).to(device) for name, a in arrays.items()})
