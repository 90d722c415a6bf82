"""SAEs on cloze prompts."""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from saebench.errors import NotApplicable
from saebench.judging.progress import ProgressBar
from saebench.properties.base import CLOZE
from saebench.substitution.cloze import ClozeEngine

if TYPE_CHECKING:
    from saebench.judging.bench import Bench, Wanted


def measure_cloze(
    bench: "Bench",
    wanted: "Wanted",
    *,
    active: AbstractSet[str],
    label: str,
    progress: ProgressBar,
) -> dict[str, Any]:
    """Return each SAE's measurement by id.

    Args:
        bench: of the SAEs.
        wanted: the SAEs.
        active: ids of those whose active features are kept for each prompt.
        label: what the progress bar says.
        progress: makes a progress bar.
    """
    subjects = [subject for subject, _ in wanted]
    try:
        prompts = bench.readings.prompts()
    except NotApplicable as error:
        return dict.fromkeys((subject.id for subject in subjects), error)
    bench.data[CLOZE] = bench.readings.record_of_prompts()
    prompts = prompts if bench.rows is None else prompts.part(bench.rows)
    with progress(f"{label}, cloze", prompts.tokens) as advance:
        engine = ClozeEngine(bench.host, prompts, batch_size=bench.settings.batch_size)
        found = dict(engine.measure(subjects, active=active, progress=advance))
    bench.count_cost(CLOZE, wanted, engine.stages, tokens=prompts.ids)
    return found
