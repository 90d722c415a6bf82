"""What a patched model costs, for each SAE that brings one."""

from collections.abc import Sequence

from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError, NotApplicable
from saebench.judging.progress import ProgressBar
from saebench.subjects.host import Host
from saebench.subjects.host_patch import FILE
from saebench.subjects.sae import Subject
from saebench.substitution.tax import TaxEngine, TaxMeasurement


def measure_tax(
    host: Host,
    tokens: TokenSet,
    wanted: Sequence[tuple[Subject, Sequence[str]]],
    *,
    label: str,
    progress: ProgressBar,
    batch_size: int | None = None,
) -> dict[str, TaxMeasurement | MeasurementError | NotApplicable]:
    """Return each SAE's measurement by id; NotApplicable where the model is as it came.

    Args:
        host: the model that the SAEs are put into.
        tokens: the sequences.
        wanted: the SAEs.
        label: of the progress bar.
        progress: makes a progress bar.
        batch_size: sequences at once; chosen where None.
    """
    if host.original is None:
        missing = NotApplicable(f"tax: the SAE brings no {FILE}: its model is as it came")
        return {subject.id: missing for subject, _ in wanted}
    engine = TaxEngine(host, tokens, batch_size=batch_size)
    found: dict[str, TaxMeasurement | MeasurementError | NotApplicable] = {}
    with progress(f"{label}, tax", len(wanted) * tokens.ids.numel()) as advance:
        for subject, _ in wanted:
            try:
                found[subject.id] = engine.measure(subject, progress=advance)
            except MeasurementError as error:
                found[subject.id] = error
    return found
