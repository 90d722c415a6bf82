"""An SAE beside the controls that are made of it, on the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError, SubjectError
from saebench.experiments.base import Among
from saebench.subjects.made_controls import CONTROLS, make_control
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine, Progress, site_of
from saebench.substitution.measurement import Measurement
from saebench.substitution.reading import reading_site

# Five more SAEs on an eighth of the sequences cost less than one on all of them.
SHARE, FEWEST, MOST = 8, 16, 64
TOGETHER = 1 + len(CONTROLS)  # the SAE and its controls


def first_sequences(tokens: TokenSet) -> TokenSet:
    """Return the sequences on which controls are measured: an eighth of the run's, the first.

    At least 16 where there are as many, and at most 64: controls differ by whole nats.
    """
    first = slice(0, min(max(len(tokens.ids) // SHARE, FEWEST), MOST))
    return replace(tokens.part(first), is_part=tokens.is_part)


def measure_controls(
    engine: Engine, wanted: Sequence[tuple[Subject, Sequence[str]]], *, progress: Progress
) -> dict[str, Among | MeasurementError]:
    """Return each SAE's measurement among those of its controls; one clean pass serves all.

    Args:
        engine: on the tokens to measure on.
        wanted: the SAEs, each with the interventions it needs.
        progress: called with the number of tokens just finished.
    """
    together: list[tuple[Subject, Sequence[str]]] = list(wanted)
    missing: dict[str, dict[str, str]] = {}
    for subject, names in wanted:
        made, missing[subject.id] = _controls_of(subject, engine)
        together += [(control, names) for control in made]
    found = engine.measure(together, progress=progress)
    return {s.id: _among(s, found, missing[s.id]) for s, _ in wanted}


def _controls_of(subject: Subject, engine: Engine) -> tuple[list[Subject], dict[str, str]]:
    """Return the SAE's controls, and why some cannot be made."""
    place = reading_site(engine.host, subject, writes=site_of(engine.host, subject))
    bank = engine.reference(place).bank
    active = float(subject.reconstruct(bank).l0.mean())
    made, missing = [], {}
    for name in CONTROLS:
        try:
            sae = make_control(name, subject.sae, l0=active)
        except SubjectError as error:
            missing[name] = str(error)
            continue
        id = _id_of(subject, name)
        made.append(Subject(sae, id=id, source=subject.source, metadata=subject.metadata))
    return made, missing


def _among(
    subject: Subject, found: Mapping[str, Any], missing: Mapping[str, str]
) -> Among | MeasurementError:
    own = found[subject.id]
    if isinstance(own, MeasurementError):
        return own
    made = {n: found[_id_of(subject, n)] for n in CONTROLS if n not in missing}
    failed = {n: str(m) for n, m in made.items() if not isinstance(m, Measurement)}
    return Among(own, {n: m for n, m in made.items() if n not in failed}, {**missing, **failed})


def _id_of(subject: Subject, control: str) -> str:
    return f"{subject.id} as {control}"
