"""The pytest plugin: options, parametrisation over SAEs, fixtures, summary.

It loads in every pytest run of the environment: what is slow to import is imported when a
benchmark is collected, or later.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from saebench.options import declare, given_options

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from saebench.judging.session import BenchmarkSession
    from saebench.records.run import CaseResult

WIDE = 100
DISTRIBUTED: pytest.StashKey[bool] = pytest.StashKey()
SESSION: pytest.StashKey["BenchmarkSession"] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options; each has an environment variable too, SAEBENCH_… for --sae-…."""
    declare(lambda group: parser.getgroup(f"saebench {group.name}", f"saebench: {group}").addoption)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark that says which property a benchmark judges."""
    config.addinivalue_line(
        "markers", "property(name): the faithfulness property that a benchmark judges"
    )


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> "Generator[None, Any, Any]":
    """See whether ``-n`` comes without ``--dist``, before xdist fills in its default."""
    option = config.option
    undecided = bool(getattr(option, "numprocesses", None)) and option.dist == "no"
    config.stash[DISTRIBUTED] = undecided and _names_an_sae(config)
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Keep the cases of one SAE in one process, where no ``--dist`` says otherwise."""
    if not config.stash.get(DISTRIBUTED, False):
        return None
    from saebench.xdist import BySae

    return BySae(config, log, _session(config).share_out(len(config.option.tx)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every benchmark one case for each SAE, or for each pair of SAEs."""
    mark = metafunc.definition.get_closest_marker("property")
    if "sae" in metafunc.fixturenames and mark is not None:
        subjects = _session(metafunc.config).subjects(mark.kwargs.get("name", ""))
        # pytest escapes what is not ASCII in an id, and a pair's arrow is not.
        ids = [name.replace("→", "->") for name in subjects]
        metafunc.parametrize("sae", subjects, ids=ids, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the cost cases, unless they were asked for or are alone; they run last."""
    timed = [item for item in items if _is_timed(item)]
    if not timed:
        return
    others = [item for item in items if item not in timed]
    with _usage_errors(config):
        if others and not _session(config).times_cost:
            config.hook.pytest_deselected(items=timed)
            timed = []
    items[:] = others + timed


def pytest_collection_finish(session: pytest.Session) -> None:
    """Plan the selected cases, or refuse what cannot be judged, before anything runs."""
    judging = session.config.stash.get(SESSION, None)
    if judging is None:
        return
    with _usage_errors(session.config):
        judging.announce(_request(item, judging) for item in session.items if _is_case(item))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Load SAEs, model and data: what does not fit together ends the run with exit code 4."""
    judging = session.config.stash.get(SESSION, None)
    if judging is None or session.config.option.collectonly or session.testsfailed:
        return
    if judging.unusable is not None:
        return
    with _usage_errors(session.config):
        judging.prepare(session.config.rootpath)


@pytest.fixture
def measure(
    request: pytest.FixtureRequest, sae: str, pytestconfig: pytest.Config
) -> "Callable[..., CaseResult]":
    """Return the function that measures the benchmark's property of this SAE, and decides."""
    judging = _session(pytestconfig)

    def measure_case(name: str, **params: Any) -> "CaseResult":
        from saebench.errors import StoreError, UsageError
        from saebench.report.exports.junit import case_properties

        if judging.unusable is not None:
            pytest.fail(judging.unusable, pytrace=False)
        request_of_case = judging.request(sae, name, params)
        try:
            case = judging.case(request_of_case, progress=_progress(pytestconfig))
        except (StoreError, UsageError) as error:
            # Every other case would meet the same error: none is measured, and the exit code is 4.
            judging.unusable = str(error)
            pytest.fail(str(error), pytrace=False)
        request.node.user_properties += case_properties(case, secondary=False)
        return case

    return measure_case


@pytest.fixture
def workload(sae: str, pytestconfig: pytest.Config) -> "Callable[[str], Callable[[], None]]":
    """Return the function that returns what is timed, by its name: one round of it."""

    def part_of(name: str) -> "Callable[[], None]":
        return _session(pytestconfig).judge.workload(sae).part(name)

    return part_of


@pytest.fixture
def gate(pytestconfig: pytest.Config) -> "Callable[[CaseResult], None]":
    """Return the function that fails the test where the case did not pass."""

    def gate_case(case: "CaseResult") -> None:
        from saebench.text import plain_lines

        if case.verdict == "SKIPPED":
            pytest.skip(plain_lines(case.reason))
        reason = _session(pytestconfig).failure(case)
        if reason:
            pytest.fail(plain_lines(reason), pytrace=False)

    return gate_case


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show one table for each SAE, worst first."""
    judging = config.stash.get(SESSION, None)
    if judging is not None and judging.unusable is not None:
        terminalreporter.write_line(f"ERROR: {judging.unusable}", red=True)
    if judging is None or not judging.has_results:
        return
    from saebench.report.terminal import render
    from saebench.text import plain_text

    writer = terminalreporter._tw
    terminalreporter.section("saebench")
    run = judging.run(complete=True)
    # Output that is no terminal has no width; pytest assumes 80 columns there.
    width = writer.fullwidth if writer._file.isatty() else max(writer.fullwidth, WIDE)
    encoding = getattr(writer._file, "encoding", None) or "utf-8"
    tables = render(run, width=width, colour=writer.hasmarkup, encoding=encoding)
    for line in tables.rstrip().splitlines():
        terminalreporter.write_line(line.rstrip())
    for line in [*judging.closing_lines(), *judging.updates]:
        terminalreporter.write_line(plain_text(line))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:  # noqa: ARG001
    """Add the results of an xdist worker that has ended."""
    output = getattr(node, "workeroutput", {})
    if "saebench_announced" not in output:
        return
    judging = _session(node.config)
    judging.unusable = judging.unusable or output.get("saebench_unusable")
    judging.expect(output["saebench_announced"])
    sent = output.get("saebench")
    if sent is not None:
        from saebench.store.json_files import parse_run
        from saebench.store.sums_file import parse_sums

        where = f"worker {node.gateway.id}"
        _, sums = parse_sums(output["saebench_sums"], where=where)
        judging.add(parse_run(sent, where=where), sums)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the results; an xdist worker sends its own to the controller."""
    config: Any = session.config
    judging = config.stash.get(SESSION, None)
    if judging is None:
        return
    judging.close()
    if judging.unusable is not None:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    complete = exitstatus in (0, 1) and judging.unusable is None
    if hasattr(config, "workeroutput"):
        config.workeroutput |= _worker_output(judging, complete=complete)
        return
    if judging.has_results:
        _write(session, judging, complete=complete)
    is_collected = not session.config.option.collectonly and judging.unusable is None
    if session.exitstatus == 0 and is_collected and judging.fails:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _worker_output(judging: "BenchmarkSession", *, complete: bool) -> dict[str, Any]:
    """Return what an xdist worker sends to the controller."""
    from saebench.store.json_files import dump_record
    from saebench.store.sums_file import dump_sums

    output: dict[str, Any] = {"saebench_announced": judging.announced}
    if judging.unusable is not None:
        output["saebench_unusable"] = judging.unusable
    if judging.has_results:
        run = judging.run(complete=complete)
        output["saebench"] = dump_record(run)
        output["saebench_sums"] = dump_sums(judging.sums(), run_id=run.run.id)
    return output


def _write(session: pytest.Session, judging: "BenchmarkSession", *, complete: bool) -> None:
    """Write results and baselines; the exit code says where they could not be written."""
    root = session.config.rootpath
    judging.write(root, complete=complete)
    if judging.unusable is not None:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    judging.update_baselines(root, complete=complete)
    if judging.refused and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _session(config: pytest.Config) -> "BenchmarkSession":
    """Return the run's session, built when the first benchmark is collected."""
    from saebench.telemetry import switch_telemetry_off

    switch_telemetry_off()
    from saebench.judging.session import BenchmarkSession
    from saebench.report.reproduce import joined_arguments
    from saebench.text import from_system

    if SESSION not in config.stash:
        typed = map(from_system, map(str, config.invocation_params.args))
        are_places = config.args_source is pytest.Config.ArgsSource.ARGS
        places = map(from_system, config.args if are_places else ())
        argv = ("pytest", *joined_arguments(typed, places))
        config.stash[SESSION] = BenchmarkSession(given_options(config), argv=argv)
        _let_pytest_warn_of_its_cache(config)
        config.stash[SESSION].share_out(_workers(config))
    return config.stash[SESSION]


def _let_pytest_warn_of_its_cache(config: Any) -> None:
    """Show the warning of a cache that cannot be written, even where warnings are errors.

    In a read-only directory pytest warns of its own cache once all is judged: as an error, it would
    replace the verdict by an internal error.
    """
    rule = "default::pytest.PytestCacheWarning"
    config.addinivalue_line("filterwarnings", rule)
    typed = getattr(config.known_args_namespace, "pythonwarnings", None)
    if typed is not None:  # -W goes before the configuration file
        typed.append(rule)


def _names_an_sae(config: pytest.Config) -> bool:
    """Return whether an SAE was given."""
    from tomllib import TOMLDecodeError

    try:
        return "sae" in given_options(config)
    except TOMLDecodeError:  # an error where benchmarks are collected, and nowhere else
        return False


def _workers(config: Any) -> int:
    """Return how many processes share the run, in one of xdist's workers; elsewhere 1."""
    return getattr(config, "workerinput", {}).get("workercount", 1)


def _is_case(item: pytest.Item) -> bool:
    return item.get_closest_marker("property") is not None and hasattr(item, "callspec")


def _is_timed(item: pytest.Item) -> bool:
    return _is_case(item) and "workload" in getattr(item, "fixturenames", ())


def _request(item: pytest.Item, judging: "BenchmarkSession") -> Any:
    mark = item.get_closest_marker("property")
    assert mark is not None
    params: dict[str, Any] = dict(item.callspec.params)  # pyright: ignore
    return judging.request(params.pop("sae", ""), mark.kwargs["name"], params)


@contextmanager
def _usage_errors(config: pytest.Config) -> Iterator[None]:
    """Raise saebench's usage errors as pytest's: a message and exit code 4.

    In an xdist worker the controller would take that for a crash: there the tests fail with the
    message, and the controller sets the exit code.
    """
    from saebench.errors import UsageError
    from saebench.text import plain_lines

    try:
        yield
    except UsageError as error:
        if not hasattr(config, "workeroutput"):
            raise pytest.UsageError(plain_lines(str(error))) from error
        config.stash[SESSION].unusable = plain_lines(str(error))


def _progress(config: pytest.Config) -> Any:
    """Return the progress bar, which is visible although pytest captures the terminal."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")

    @contextmanager
    def visible(what: str, tokens: int) -> Iterator[Any]:
        from saebench.progress import progress_bar

        if capture is None:
            with progress_bar(what, tokens) as advance:
                yield advance
            return
        with capture.global_and_fixture_disabled(), progress_bar(what, tokens) as advance:
            yield advance

    return visible
