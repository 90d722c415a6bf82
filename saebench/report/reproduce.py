"""The command that measures one case again, and nothing else."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise

from saebench.option_kinds import ALLOW_PARTIAL
from saebench.options import OPTIONS
from saebench.records.case_result import CaseResult
from saebench.records.run import Run
from saebench.records.verdict import SEVERITY, Verdict
from saebench.text import plain_text

FAILED = (Verdict.ERROR, Verdict.FAIL, Verdict.INCOMPARABLE, Verdict.INCONCLUSIVE)
OURS = {each.flag: each for each in OPTIONS}
# Options of pytest and its plugins that write files, choose among cases, or only show.
LEFT_OUT = ("--junitxml", "--junit-xml", "-k", "-m", "-n", "--dist", "--numprocesses", "--tb", "-p",
            "--maxfail", "--color", "-W", "--reruns", "--reruns-delay", "--count")  # fmt: skip
LEFT_OUT_FLAGS = ("--lf", "--last-failed", "--ff", "--failed-first", "--exitfirst", "--force-flaky")
PLAIN_FLAGS = re.compile(r"-[qvxsl]+")
SHORT = re.compile(r"-[qvxs]+|-[kmnpW].+")  # -q, -vv, -kNAME
PLACE = re.compile(r"(?P<root>.*?)/?(?P<test>test_\w+\.py(::.*)?)?")


def reproduce_lines(run: Run, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Give the command for each case that did not pass, the worst first."""
    for case in sorted(run.cases, key=lambda case: -SEVERITY[case.verdict]):
        if case.verdict in FAILED and (command := reproduce(run, case, environment)):
            yield plain_text(f"{case.id}: {command}")


def reproduce(
    run: Run, case: CaseResult, environment: Mapping[str, str] | None = None
) -> str | None:
    """Return the command line that measures a case again; None where none is known.

    All SAEs of the run stay named: some properties read the others' measurements too.

    Args:
        run: the run that the case is of.
        case: the case.
        environment: variables; the command sets those that are options of the run.
    """
    if not run.run.argv or run.run.argv[0] != "pytest":
        return None
    root, arguments = split_arguments(run.run.argv[1:])
    names = sorted(each.variable for each in OPTIONS if each.reproduced)
    given = environment or {}
    variables = [f"{name}={shlex.quote(given[name])}" for name in names if name in given]
    words = ["pytest", f"{root}/{node_of(case)}", *arguments, ALLOW_PARTIAL]
    return " ".join([*variables, shlex.join(words)])


def split_arguments(arguments: Iterable[str]) -> tuple[str, list[str]]:
    """Return the benchmarks' directory, and the arguments that say what is measured.

    Example:
        >>> split_arguments(("benchmarks", "--sae", "demo", "-k", "cloze", "--sae-json=r.json"))
        ('benchmarks', ['--sae', 'demo'])
    """
    root, measuring = "benchmarks", []
    words = iter(arguments)
    for word in words:
        name, joined, _ = word.partition("=")
        ours = OURS.get(name)
        if ours is not None or name in LEFT_OUT:
            takes_next = not joined and (ours is None or ours.takes_value)
            value = list(islice(words, int(takes_next)))
            measuring += [word, *value] if ours is not None and ours.reproduced else []
        elif word in LEFT_OUT_FLAGS or SHORT.fullmatch(word):
            continue
        elif (place := PLACE.fullmatch(word)) and not word.startswith("-"):
            root = place["root"].rstrip("/") or "."
        else:
            measuring.append(word)
    return root, measuring


def joined_arguments(arguments: Iterable[str], places: Iterable[str]) -> Iterator[str]:
    """Give the arguments, an option of another tool and its value as one.

    Which of those options take a value only the parser knows, and it says so by the words that it
    took for places. Options of saebench stay as they were typed.

    Args:
        arguments: as they were typed.
        places: those that the parser took for files, directories and tests.

    Example:
        >>> list(joined_arguments(["--rootdir", "a", "-q", "b", "--sae", "demo"], ["b"]))
        ['--rootdir=a', '-q', 'b', '--sae', 'demo']
    """
    words = list(arguments)
    # A place that follows no option is counted here, so that no option's value is taken for it.
    left = Counter(places)
    left.subtract(
        w for before, w in pairwise(["", *words]) if w in left and _is_place_after(before)
    )
    option = ""
    for word in words:
        if option and left[word] <= 0 and not word.startswith("-"):
            yield f"{option}={word}" if option.startswith("--") else option + word
            option = ""
            continue
        if option:
            yield option
            left[word] -= 1
        option = word if _may_take(word) else ""
        if not option:
            yield word
    if option:
        yield option


def _may_take(word: str) -> bool:
    """True for an option of another tool, whose value may be the next word."""
    known = word in OURS or "=" in word or word in LEFT_OUT_FLAGS or PLAIN_FLAGS.fullmatch(word)
    return word.startswith("-") and not known


def _is_place_after(before: str) -> bool:
    """True where a word after this one cannot be its value."""
    return not _may_take(before) and not (before in OURS and OURS[before].takes_value)


def node_of(case: CaseResult) -> str:
    """Return the name by which pytest knows the case's test, below the benchmarks' directory.

    Example:
        >>> case = CaseResult("kl_gap[scope=all]@l2", "l2", "kl_gap", {"scope": "all"},
        ...                   Verdict.FAIL, "", 0.0, "")
        >>> node_of(case)
        'test_kl_gap.py::test_kl_gap[l2-all]'
    """
    # As the plugin and pytest name parameters: an arrow, and what is not ASCII, are escaped.
    sae = case.sae.replace("→", "->").encode("unicode_escape").decode()
    chosen = [str(v) for k, v in case.params.items() if k not in ("first", "second")]
    return f"test_{case.property}.py::test_{case.property}[{'-'.join([sae, *chosen])}]"
