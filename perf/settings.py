"""What one run measures: the sizes, the threads, how often."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A random GPT-2, the SAEs on it and the tokens that they are measured on.

    Attributes:
        active: features that fire at a token, on average.
        hook_layer: the SAEs' place is this block's input.
        long_context: context of the case with long sequences.
        memory_sequences: sequences, in one batch, of the case that measures memory.
        saes_at_one_hook: SAEs of the case with many at one place.
        drawn_position: the token of the case with many draws of noise.
        draws: how many.
    """

    layers: int
    d_model: int
    heads: int
    vocab: int
    positions: int
    d_sae: int
    active: int
    hook_layer: int
    sequences: int
    context: int
    batch: int
    long_sequences: int
    long_context: int
    memory_sequences: int
    saes_at_one_hook: int
    drawn_position: int
    draws: int

    @property
    def d_mlp(self) -> int:
        """Width of the MLP: GPT-2's four times the residual stream."""
        return 4 * self.d_model

    @property
    def hook(self) -> str:
        """Name of the place where the SAE belongs."""
        return resid_pre(self.hook_layer)


def resid_pre(layer: int) -> str:
    """Name a block's input.

    Example:
        >>> resid_pre(8)
        'blocks.8.hook_resid_pre'
    """
    return f"blocks.{layer}.hook_resid_pre"


SIZES = {
    "gpt2": Size(
        layers=12, d_model=768, heads=12, vocab=50257, positions=1024, d_sae=24576, active=60,
        hook_layer=8, sequences=8, context=128, batch=8, long_sequences=2, long_context=1024,
        memory_sequences=16, saes_at_one_hook=8, drawn_position=48, draws=500,
    ),
    # A GPU is not busy with a thousand tokens.
    "gpt2-gpu": Size(
        layers=12, d_model=768, heads=12, vocab=50257, positions=1024, d_sae=24576, active=60,
        hook_layer=8, sequences=256, context=128, batch=64, long_sequences=8, long_context=1024,
        memory_sequences=64, saes_at_one_hook=8, drawn_position=48, draws=500,
    ),
    "smoke": Size(
        layers=3, d_model=32, heads=4, vocab=97, positions=48, d_sae=256, active=8,
        hook_layer=2, sequences=6, context=16, batch=3, long_sequences=2, long_context=48,
        memory_sequences=4, saes_at_one_hook=3, drawn_position=6, draws=40,
    ),
}  # fmt: skip
STATED_THREADS = 2


@dataclass(frozen=True)
class Settings:
    """One run's options.

    Attributes:
        size: a name in ``SIZES``.
        threads: of torch's matrix products, ours and the peers' alike.
        repeats: timed calls of each; the first, untimed one warms up.
        statistic: ``min`` or ``median`` over the repeats.
        cases: names of the cases to run.
        sae_bench: measure that peer too, which installs it in an environment of its own.
        clock: ``wall``, or ``cpu`` for this process' processor time.
        device: of ours and of the peers in this process.
    """

    size: str
    threads: int
    repeats: int
    statistic: str
    cases: tuple[str, ...]
    sae_bench: bool
    clock: str = "wall"
    device: str = "cpu"
    seed: int = 0

    @property
    def sizes(self) -> Size:
        """The sizes that the name stands for."""
        return SIZES[self.size]

    @property
    def judges(self) -> bool:
        """True where the targets, stated for GPT-2 size and two threads, can be judged."""
        stated = (self.size, self.threads, self.clock, self.device)
        return stated == ("gpt2", STATED_THREADS, "wall", "cpu")

    @property
    def our_batch(self) -> int | None:
        """Sequences that ours takes at once: as the peers on a CPU, by itself on a GPU."""
        return self.sizes.batch if self.device == "cpu" else None
