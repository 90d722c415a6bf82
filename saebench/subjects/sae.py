"""Loaded SAEs: one interface to reconstruct activations, whatever the architecture."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.formats.metadata import SubjectMetadata
from saebench.formats.promises import Promise
from saebench.measures.resources import DECODE, ENCODE, Stages, is_out_of_memory
from saebench.subjects.features import (
    INDEPENDENT,
    SPARSE_FROM,
    SPARSE_SHARE,
    Active,
    Usage,
    Watch,
    tiles_of,
)
from saebench.subjects.modules import (
    Calls,
    config_of,
    decoder_norm,
    decoder_of,
    is_known,
    refuse_non_finite,
    refuse_unfolded,
    tensors_sha256,
    without_reshaping,
)

# Rows of d_sae features: on a CPU 25 MB at 24,576 features; larger SAEs take fewer rows.
ROWS_AT_ONCE = {"cpu": 256, "cuda": 4096}
FEATURES_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 28}
TILE_ROWS = 1024  # where features are computed by tiles: 8 MB of them at once


@dataclass(frozen=True)
class Reconstruction:
    """An SAE's output for some tokens, with statistics of its features.

    Attributes:
        x_hat: reconstructions; for a transcoder, of the activation that it predicts.
        l0: number of features that are not zero, at each token.
        l1: Σ|f|, at each token.
        l1_unit: Σ|f|·‖d_f‖, the l1 with a unit-norm decoder; None without a decoder matrix.
        fired: number of tokens at which each feature is not zero.
        skipped: the part of ``x_hat`` that a skip transcoder's linear map of its input gives; None
            without a skip path.
        usage: what a watch asked for; None without one.
    """

    x_hat: Float[Tensor, "tokens d"]
    l0: Float[Tensor, "tokens"]
    l1: Float[Tensor, "tokens"]
    l1_unit: Float[Tensor, "tokens"] | None
    fired: Int[Tensor, "features"]
    skipped: Float[Tensor, "tokens d"] | None = None
    usage: Usage | None = None

    @classmethod
    def joined(cls, parts: Sequence["Reconstruction"]) -> "Reconstruction":
        """Return the output for consecutive parts of the tokens together."""
        unit = [p.l1_unit for p in parts if p.l1_unit is not None]
        skipped = [p.skipped for p in parts if p.skipped is not None]
        usages = [p.usage for p in parts if p.usage is not None]
        return cls(
            x_hat=torch.cat([p.x_hat for p in parts]),
            l0=torch.cat([p.l0 for p in parts]),
            l1=torch.cat([p.l1 for p in parts]),
            l1_unit=torch.cat(unit) if unit else None,
            fired=torch.stack([p.fired for p in parts]).sum(dim=0),
            skipped=torch.cat(skipped) if skipped else None,
            usage=Usage.joined(usages) if usages else None,
        )


class Subject:
    """An SAE under test.

    Args:
        sae: a SAELens SAE, or any module with ``encode`` and ``decode``.
        id: its short name in the run.
        source: its SPEC, or a description of the object, for messages.
        metadata: its hook, model and training context.
        config: its configuration, for a module without SAELens' ``cfg``.
        waits: whether its normalisation must be estimated and folded before measuring.

    Attributes:
        expected_explained_variance: its release's figure in SAELens' registry; an SAE far below
            it is not measured.
        promises: its l0 and explained variance as its files or its release state them.

    Raises:
        SubjectError: for weights that are not finite, or a normalisation that is not folded.
    """

    def __init__(
        self,
        sae: nn.Module,
        *,
        id: str,
        source: str,
        metadata: SubjectMetadata,
        config: dict[str, Any] | None = None,
        waits: bool = False,
    ) -> None:
        refuse_non_finite(sae, source)
        if not waits:
            refuse_unfolded(sae, source)
        self.waits = waits
        self.sae: Any = without_reshaping(sae).eval()
        self.id = id
        self.source = source
        self.metadata = metadata
        self._config = config or {}
        self.expected_explained_variance: float | None = None
        self.promises: Mapping[str, Promise] = {}
        self._features_seen = 0
        self._decoder = decoder_of(self.sae)
        self._decoder_norm = decoder_norm(self.sae, self._decoder)
        self._sparse = self.d_sae >= SPARSE_FROM and self._decodes_sparsely()
        self._tiled = self._sparse and self._encodes_by_tiles()

    @property
    def config(self) -> dict[str, Any]:
        """The SAE's configuration; empty for a plain module."""
        return config_of(self.sae) or self._config

    @property
    def architecture(self) -> str:
        """SAELens' name of the architecture, or the class's name."""
        return self.config.get("architecture", type(self.sae).__name__)

    @property
    def d_in(self) -> int:
        """Width of the activations; 0 for a plain module where it is unknown."""
        return self.config.get("d_in") or self._side_of_encoder(0)

    @property
    def d_out(self) -> int:
        """Width of the reconstructions; a transcoder's may differ from its input's."""
        if "d_out" in self.config:
            return self.config["d_out"]
        return self.d_in if self._decoder is None else self._decoder.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of features; 0 for a plain module where it is unknown before the first run."""
        return self.config.get("d_sae") or self._side_of_encoder(1) or self._features_seen

    @cached_property
    def weights_sha256(self) -> str:
        """Fingerprint of the weights."""
        return tensors_sha256(self.sae.state_dict())

    def to(self, device: torch.device) -> "Subject":
        """Put the SAE on the model's device; the user's object is copied, not moved."""
        parameter = next(self.sae.parameters(), None)
        if parameter is not None and parameter.device != device:
            self.sae = copy.deepcopy(self.sae).to(device)
            self._decoder = decoder_of(self.sae)
            self._decoder_norm = decoder_norm(self.sae, self._decoder)
        return self

    def _rows_at_once(self, device: torch.device) -> int:
        kind = device.type if device.type in ROWS_AT_ONCE else "cuda"
        return max(1, min(ROWS_AT_ONCE[kind], FEATURES_AT_ONCE[kind] // max(1, self.d_sae)))

    @torch.inference_mode()
    def reconstruct(
        self,
        x: Float[Tensor, "tokens d"],
        *,
        stages: Stages | None = None,
        watch: Watch | None = None,
    ) -> Reconstruction:
        """Encode and decode chunk by chunk: some normalisations keep state between the two.

        Args:
            x: activations.
            stages: timer of encoding and decoding.
            watch: what to record of the features' usage.
        """
        stages = stages or Stages(x.device)
        return Reconstruction.joined(list(self._parts(x, stages, watch)))

    def reconstruct_many(
        self, x: Float[Tensor, "tokens d"], *, stages: Stages | None = None
    ) -> Reconstruction:
        """Reconstruct activations in as many parts as fit into memory.

        Args:
            x: activations.
            stages: timer of encoding and decoding.
        """
        try:
            return self.reconstruct(x, stages=stages)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(x) == 1:
                raise
        halves = x.split(-(-len(x) // 2))
        return Reconstruction.joined([self.reconstruct_many(h, stages=stages) for h in halves])

    @property
    def has_skip(self) -> bool:
        """True for a skip transcoder, which adds a linear map of its input."""
        return isinstance(getattr(self.sae, "W_skip", None), Tensor)

    @property
    def calls(self) -> Calls:
        """Guarded calls of the SAE's functions."""
        return Calls(self.sae, self.source)

    @property
    def decoder(self) -> Float[Tensor, "features d"] | None:
        """The features' directions; None without a decoder matrix."""
        return self._decoder

    def norm_of_features(self, like: Tensor) -> Float[Tensor, "features"]:
        """Return what |f| is multiplied by for its share of the activation mass, in fp32.

        It is ‖d_f‖, or 1 where there is no decoder matrix or features have its norm already.

        Args:
            like: a tensor on the SAE's device.
        """
        if self._decoder_norm is None:
            return torch.ones(self._features_seen, dtype=torch.float32, device=like.device)
        return self._decoder_norm.float()

    @torch.inference_mode()
    def constant_output(self, like: Tensor) -> Float64[Tensor, "d"] | None:
        """Return the output of no features; None where it differs from token to token.

        It does where each token is normalised by itself, and where a linear map of the input is
        added.

        Args:
            like: a tensor on the SAE's device.
        """
        kind = self.config.get("normalize_activations") or "none"
        plain = kind in ("none", "expected_average_only_in")
        if not plain or self.has_skip or not self.d_sae:
            return None
        none = torch.zeros(1, self.d_sae, dtype=self.calls.dtype, device=like.device)
        return self.calls.decode(none, like=like[:1])[0].double()

    @torch.inference_mode()
    def fired_on(
        self, x: Float[Tensor, "tokens d"]
    ) -> tuple[Bool[Tensor, "tokens features"], Float64[Tensor, "features"]]:
        """Return which features fire at each token, and each feature's activation mass."""
        fired, mass = [], torch.zeros((), dtype=torch.float64, device=x.device)
        for rows in x.split(self._rows_at_once(x.device)):
            features = self._features(rows)
            fired.append(features != 0)
            mass = mass + features.abs().float().sum(dim=0).double()
        return torch.cat(fired), mass * self.norm_of_features(x)

    @torch.inference_mode()
    def active(self, x: Float[Tensor, "tokens d"]) -> Bool[Tensor, "tokens features"]:
        """Return which features are not zero at each token."""
        return torch.cat(
            [self._features(rows) != 0 for rows in x.split(self._rows_at_once(x.device))]
        )

    def _features(self, x: Tensor) -> Float[Tensor, "tokens features"]:
        features = self.calls.encode(x)
        if self._features_seen not in (0, features.shape[-1]):
            raise SubjectError(
                f"{self.source}: encode gives {features.shape[-1]} features, and gave "
                f"{self._features_seen} for other tokens; each token must have the same features"
            )
        self._features_seen = features.shape[-1]
        return features

    def _parts(self, x: Tensor, stages: Stages, watch: Watch | None) -> Iterator[Reconstruction]:
        if self._tiled and self._on_cpu(x):
            for rows, watched in _chunks(x, watch, TILE_ROWS):
                active = self._active_by_tiles(rows, stages)
                if active is None:
                    yield from self._by_rows(rows, stages, watched)
                else:
                    with stages(DECODE):
                        gathered = self._gathered(active, rows, watched)
                        yield self._with_skip(gathered, rows.to(self.sae.dtype))
        else:
            yield from self._by_rows(x, stages, watch)

    def _by_rows(self, x: Tensor, stages: Stages, watch: Watch | None) -> Iterator[Reconstruction]:
        for rows, watched in _chunks(x, watch, self._rows_at_once(x.device)):
            yield self._reconstruct(rows, stages, watched)

    def _active_by_tiles(self, x: Tensor, stages: Stages) -> Active | None:
        """Return the active features, or None where they are too many to be gathered.

        Writing the features of many tokens to memory costs a third of the encoder's product; a
        tile of them stays in the cache until the active ones are selected.
        """
        actives: list[Active] = []
        starts: list[int] = []
        left = SPARSE_SHARE * len(x) * self.d_sae
        for start, tile in tiles_of(self.sae, self.d_sae):
            with stages(ENCODE):
                features = tile.encode(x.to(self.sae.dtype))
            with stages(DECODE):
                actives.append(Active.of(features))
                starts.append(start)
                left -= len(actives[-1].token)
            if left <= 0:
                return None
        with stages(DECODE):
            self._features_seen = self.d_sae
            return Active.joined(actives, starts)

    def _reconstruct(self, x: Tensor, stages: Stages, watch: Watch | None) -> Reconstruction:
        with stages(ENCODE):
            features = self._features(x)
        with stages(DECODE):
            if self._sparse and self._on_cpu(x) and self._few(features):
                result = self._gathered(Active.of(features), x, watch)
            else:
                result = self._dense(features, x, watch)
            return self._with_skip(result, x.to(features.dtype))

    @staticmethod
    def _on_cpu(x: Tensor) -> bool:
        """True where selecting active features pays: on a GPU it needs a synchronisation."""
        return x.device.type == "cpu"

    @staticmethod
    def _few(features: Tensor) -> bool:
        return int(features.count_nonzero()) < SPARSE_SHARE * features.numel()

    def _with_skip(self, result: Reconstruction, x: Tensor) -> Reconstruction:
        """Add a skip transcoder's linear map of its input."""
        if not self.has_skip:
            return result
        skip = self.sae.W_skip
        skipped = (x.to(skip.dtype) @ skip.T).to(result.x_hat.dtype)
        return replace(result, x_hat=result.x_hat + skipped, skipped=skipped)

    def _dense(self, features: Tensor, x: Tensor, watch: Watch | None) -> Reconstruction:
        # Both are computed before decode, which may write to the features.
        active = features != 0
        # In fp32: the sum of an fp16 SAE's features may be beyond its range.
        size = features.abs().float()
        norm = self._decoder_norm
        usage = watch and Usage.dense(size, active, self.norm_of_features(x), watch)
        return Reconstruction(
            x_hat=self.calls.decode(features, like=x),
            l0=active.sum(dim=-1).float(),
            l1=size.sum(dim=-1),
            l1_unit=None if norm is None else size @ norm.float(),
            fired=active.sum(dim=0),
            usage=usage,
        )

    def _side_of_encoder(self, side: int) -> int:
        weight = getattr(self.sae, "W_enc", None)
        if self._decoder is None or not isinstance(weight, Tensor):
            return 0
        return weight.shape[side]

    def _gathered(self, active: Active, x: Tensor, watch: Watch | None) -> Reconstruction:
        size = active.value.abs()
        norm = self._decoder_norm
        return Reconstruction(
            x_hat=self._summed(active).to(x.dtype),
            l0=active.counts.float(),
            l1=active.by_token(size).float(),
            l1_unit=None if norm is None else active.by_token(size * norm[active.feature]).float(),
            fired=torch.bincount(active.feature, minlength=self._features_seen),
            usage=watch and Usage.sparse(active, self.norm_of_features(x), watch),
        )

    def _summed(self, active: Active) -> Float[Tensor, "tokens d"]:
        """Sum the decoder rows of the active features, instead of multiplying by zeros."""
        rescaled = bool(self.config.get("rescale_acts_by_decoder_norm", False))
        return active.decoded(self.sae.W_dec, self.sae.b_dec, rescaled=rescaled)

    @torch.inference_mode()
    def _decodes_sparsely(self) -> bool:
        """Test on random features whether gathering gives the result of decode."""
        plain = self.config.get("normalize_activations", "none") == "none"
        known = is_known(self.sae) and self._decoder is not None and hasattr(self.sae, "b_dec")
        if not plain or not known:
            return False
        generator = torch.Generator().manual_seed(0)
        features = torch.zeros(4, self.d_sae, dtype=torch.float32)
        indices = torch.randint(self.d_sae, (4, 16), generator=generator)
        features.scatter_(1, indices, torch.rand(4, 16, generator=generator, dtype=torch.float32))
        parameter = next(self.sae.parameters())
        features = features.to(parameter.device, parameter.dtype)
        dense = self.calls.decode(features, like=features)
        return torch.allclose(self._summed(Active.of(features)), dense, rtol=1e-4, atol=1e-5)

    @torch.inference_mode()
    def _encodes_by_tiles(self) -> bool:
        """Test on random activations whether tiles give the result of encode."""
        is_saelens = type(self.sae).__module__.startswith("sae_lens.")
        known = is_saelens and self.architecture in INDEPENDENT
        if not known or self.d_in == self.d_sae or self.d_out == self.d_sae:
            return False
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, self.d_in, generator=generator, dtype=torch.float32)
        x = x.to(next(self.sae.parameters()))
        tiles = torch.cat([tile.encode(x) for _, tile in tiles_of(self.sae, self.d_sae)], dim=-1)
        dense = self.sae.encode(x)
        return tiles.shape == dense.shape and torch.allclose(tiles, dense, rtol=1e-4, atol=1e-5)


def _chunks(x: Tensor, watch: Watch | None, size: int) -> Iterable[tuple[Tensor, Watch | None]]:
    """Return consecutive tokens, ``size`` at a time, each with its part of the watch."""
    return zip(x.split(size), repeat(None) if watch is None else watch.split(size), strict=False)
