"""The command that measures one case again, and nothing else."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from saebench.records.run import SEVERITY, CaseResult, Run, Verdict
from saebench.report.style import plain_text

FAILED = (Verdict.ERROR, Verdict.FAIL, Verdict.INCOMPARABLE, Verdict.INCONCLUSIVE)
# What writes files, or chooses among cases, has no part in it.
WITH_VALUE = ("--sae-json", "--sae-md", "--sae-html", "--junitxml", "--junit-xml", "-k", "-m", "-n",
              "--dist", "--numprocesses", "--tb", "-p", "--maxfail", "--color", "-W")  # fmt: skip
FLAGS = ("--sae-update-baselines", "--sae-update-new", "--lf", "--ff", "--exitfirst")
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
        environment: variables of which those that are twins of options are told too.
    """
    if not run.run.argv or run.run.argv[0] != "pytest":
        return None
    root, kept = split_arguments(run.run.argv[1:])
    twins = sorted(name for name in environment or {} if name.startswith("SAEBENCH_"))
    said = [f"{name}={shlex.quote((environment or {})[name])}" for name in twins]
    return " ".join([*said, shlex.join(["pytest", f"{root}/{node_of(case)}", *kept])])


def split_arguments(arguments: Iterable[str]) -> tuple[str, list[str]]:
    """Return the benchmarks' directory, and the arguments that say what is measured.

    Example:
        >>> split_arguments(("benchmarks", "--sae", "demo", "-k", "cloze", "--sae-json=r.json"))
        ('benchmarks', ['--sae', 'demo'])
    """
    root, kept = "benchmarks", []
    values = iter(arguments)
    for argument in values:
        if argument in FLAGS or SHORT.fullmatch(argument):
            continue
        if argument.partition("=")[0] in WITH_VALUE:
            if "=" not in argument:
                next(values, None)
        elif argument.startswith("--") and "=" not in argument:
            kept += [argument, *_value(values, argument)]
        elif (found := PLACE.fullmatch(argument)) and not argument.startswith("-"):
            root = found["root"].rstrip("/") or "."
        else:
            kept.append(argument)
    return root, kept


def joined_arguments(arguments: Iterable[str], places: Iterable[str]) -> Iterator[str]:
    """Give the arguments with each option and the word that is its value in one.

    Only the parser knows which options take a value, and it says so by what it took for places.
    Our own options stay as they were typed: they are known.

    Args:
        arguments: as they were typed.
        places: those that the parser took for files, directories and tests.

    Example:
        >>> list(joined_arguments(["--rootdir", "a", "-q", "b", "--sae", "demo"], ["b"]))
        ['--rootdir=a', '-q', 'b', '--sae', 'demo']
    """
    words = list(arguments)
    # Places that stand where no value can stand are met there, and not after an option.
    left = Counter(places)
    left.subtract(w for before, w in pairwise(["", *words]) if w in left and not _may_take(before))
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
    known = word.startswith("--sae") or "=" in word or word in FLAGS or PLAIN_FLAGS.fullmatch(word)
    return word.startswith("-") and not known


def _value(values: Iterator[str], option: str) -> list[str]:
    """Return the value that follows one of our options; other tools' are left as they are."""
    takes_none = not option.startswith("--sae") or option in ("--sae-score-bos", "--sae-cost")
    return [] if takes_none else [value for value in (next(values, None),) if value is not None]


def node_of(case: CaseResult) -> str:
    """Return the name by which pytest knows the case's test, below the benchmarks' directory.

    Example:
        >>> case = CaseResult("kl_gap[scope=all]@l2", "l2", "kl_gap", {"scope": "all"},
        ...                   Verdict.FAIL, "", 0.0, "")
        >>> node_of(case)
        'test_kl_gap.py::test_kl_gap[l2-all]'
    """
    # As the plugin and pytest name parameters: an arrow, and what is not ASCII, cannot stand.
    sae = case.sae.replace("→", "->").encode("unicode_escape").decode()
    chosen = [str(v) for k, v in case.params.items() if k not in ("first", "second")]
    return f"test_{case.property}.py::test_{case.property}[{'-'.join([sae, *chosen])}]"
