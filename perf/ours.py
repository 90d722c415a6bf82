"""Our engine, as the cases call it."""

from collections.abc import Sequence

from perf.figures import Figures, Runner, joined
from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine
from saebench.substitution.measurement import SCORED, TARGETS, Measurement

CORE = ("sae", "zero")


def our_runner(
    host: Host,
    tokens: TokenSet,
    subjects: Sequence[Subject],
    interventions: Sequence[str] = CORE,
    *,
    batch: int | None,
) -> Runner:
    """Return a call that measures the SAEs from scratch; nothing is cached between calls.

    Raises:
        MeasurementError: by the call, where an SAE or an intervention cannot be measured.
    """

    def run() -> Figures:
        engine = Engine(host, tokens, seed=0, batch_size=batch)
        jobs = [(subject, interventions) for subject in subjects]
        found = engine.measure(jobs, progress=lambda _: None)
        parts = {s.id: _figures(found[s.id], interventions) for s in subjects}
        return joined(parts)

    return run


def _figures(found: Measurement | MeasurementError, interventions: Sequence[str]) -> Figures:
    if isinstance(found, MeasurementError):
        raise found
    found.need(*interventions)
    table = found.table()
    channels = {"ce.clean": ("clean.ce", TARGETS)}
    for name in interventions:
        channels[f"kl.{name}"] = (f"{name}.kl", SCORED)
        channels[f"ce.{name}"] = (f"{name}.ce", TARGETS)
    pooled = {q: float(table[c].sum() / table[n].sum()) for q, (c, n) in channels.items()}
    by_sequence = {q: tuple((table[c] / table[n]).tolist()) for q, (c, n) in channels.items()}
    return Figures(pooled, by_sequence)
