"""SAEs compared with the controls made of them, on the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError, SubjectError
from saebench.experiments.base import Extent, Measurer, Results, Targets
from saebench.measures.state import WithPeers
from saebench.progress import ProgressBar
from saebench.subjects.made_controls import CONTROLS, make_control
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine
from saebench.substitution.gathering import reading_site, site_of
from saebench.substitution.measurement import Measurement

# Five more SAEs on an eighth of the sequences cost less than one on all of them.
DIVISOR, FEWEST, MOST = 8, 16, 64


def first_sequences(tokens: TokenSet) -> TokenSet:
    """Return the first sequences, on which controls are measured: an eighth of the run's.

    There are 16 to 64 of them, or all of a run with fewer: enough, as controls are worse by nats.
    """
    first = slice(0, min(max(len(tokens.ids) // DIVISOR, FEWEST), MOST))
    return replace(tokens.part(first), is_part=tokens.is_part)


class ControlsMeasurer(Measurer):
    """Measures each SAE with its controls, with one clean pass for all."""

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return the first sequences; their width counts every SAE that is run on them."""
        first = first_sequences(self.bench.tokens)
        width = first.ids.shape[1] * self.experiment.saes_for_each
        return Extent(len(first.ids), width, first.fingerprint)

    def corpora(self, targets: Targets) -> list[TokenSet]:  # noqa: ARG002
        """Return the first sequences."""
        return [first_sequences(self.bench.tokens)]

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:
        """Measure the SAEs and their controls."""
        bench, first = self.bench, first_sequences(self.bench.tokens)
        bench.parts[str(self.experiment)] = bench.readings.record(first)
        engine = bench.engine(first)
        wanted: list[tuple[Subject, Sequence[str]]] = [
            (target.subject, target.interventions) for target in targets
        ]
        missing: dict[str, dict[str, str]] = {}
        for subject, names in tuple(wanted):
            controls, missing[subject.id] = _controls_of(subject, engine)
            wanted += [(control, names) for control in controls]
        ids = engine.tokens.ids
        with progress(f"{self.label(targets)}, controls", ids.numel()) as advance:
            by_name = engine.measure(wanted, progress=advance)
        bench.count_cost(self.experiment, targets, engine.stages, tokens=ids)
        return Results.of({t.name: _with_controls(t.subject, by_name, missing) for t in targets})


def _controls_of(subject: Subject, engine: Engine) -> tuple[list[Subject], dict[str, str]]:
    """Return the SAE's controls, and by name the reason for those that cannot be made."""
    place = reading_site(engine.host, subject, writes=site_of(engine.host, subject))
    bank = engine.reference(place).bank
    active = float(subject.reconstruct_many(bank).l0.mean())
    controls, missing = [], {}
    for name in CONTROLS:
        try:
            sae = make_control(name, subject.sae, l0=active)
        except SubjectError as error:
            missing[name] = str(error)
            continue
        id = _id_of(subject, name)
        controls.append(Subject(sae, id=id, source=subject.source, metadata=subject.metadata))
    return controls, missing


def _with_controls(
    subject: Subject, by_name: Mapping[str, Any], missing: Mapping[str, Mapping[str, str]]
) -> WithPeers | MeasurementError:
    """Return an SAE's measurement with its controls', or the SAE's error."""
    own, left_out = by_name[subject.id], missing[subject.id]
    if isinstance(own, MeasurementError):
        return own
    controls = {n: by_name[_id_of(subject, n)] for n in CONTROLS if n not in left_out}
    failed = {n: str(m) for n, m in controls.items() if not isinstance(m, Measurement)}
    measured = {n: m for n, m in controls.items() if n not in failed}
    return WithPeers(own, measured, {**left_out, **failed})


def _id_of(subject: Subject, control: str) -> str:
    return f"{subject.id} as {control}"
