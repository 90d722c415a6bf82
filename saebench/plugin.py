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
    from saebench.records.case_result import CaseResult

WIDE = 100
DISTRIBUTED: pytest.StashKey[bool] = pytest.StashKey()
SESSION: pytest.StashKey["BenchmarkSession"] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the options; each has an environment variable too, SAEBENCH_… for --sae-…."""
    from saebench.conflicts import option_conflict

    pluginmanager.register(OptionWatch(pluginmanager))
    try:
        declare(
            lambda group: parser.getgroup(f"saebench {group.name}", f"saebench: {group}").addoption
        )
    except ValueError as error:
        first = sorted({dist.project_name for _, dist in pluginmanager.list_plugin_distinfo()})
        owner = f"another pytest plugin (loaded so far: {', '.join(first)})"
        raise pytest.UsageError(option_conflict(error, owner) or str(error)) from error


class OptionWatch:
    """Says which conftest file or plugin defines an option of saebench too, with exit code 4.

    It watches until all conftest files have defined their options.
    """

    def __init__(self, pluginmanager: pytest.PytestPluginManager) -> None:
        self._end = pluginmanager.add_hookcall_monitoring(lambda *_: None, self._after)

    @pytest.hookimpl(wrapper=True)
    def pytest_load_initial_conftests(self) -> "Generator[None, Any, Any]":
        """Stop watching afterwards."""
        try:
            return (yield)
        finally:
            self._end()

    def _after(self, outcome: Any, name: str, called: Any, given: Any) -> None:  # noqa: ARG002
        if name != "pytest_addoption" or not isinstance(outcome.exception, ValueError):
            return
        from saebench.conflicts import option_conflict

        sentence = option_conflict(outcome.exception, called[-1].plugin)
        if sentence is not None:
            outcome.force_exception(pytest.UsageError(sentence))


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark that says which property a benchmark judges."""
    config.addinivalue_line(
        "markers", "property(name): the faithfulness property that a benchmark judges"
    )


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> "Generator[None, Any, Any]":
    """See whether ``-n`` comes without ``--dist``, before xdist fills in its default."""
    option = config.option
    several = bool(getattr(option, "numprocesses", None))
    config.stash[DISTRIBUTED] = several and option.dist == "no" and _names_an_sae(config)
    shared = several or hasattr(config, "workerinput")
    if shared and _names_an_sae(config) and not getattr(option, "benchmark_only", False):
        # As pytest-benchmark would do, with a warning at the end of the run.
        option.benchmark_disable = True
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
        from saebench.conflicts import parametrised_fixture

        sentence = parametrised_fixture(metafunc._arg2fixturedefs.get("sae", ()))
        if sentence is not None:
            _session(metafunc.config).refuse(sentence)
            return
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
    for item in session.items:
        _check_fixtures(item)
    judging = session.config.stash.get(SESSION, None)
    if judging is None:
        return
    with _usage_errors(session.config):
        judging.announce(_request(item, judging) for item in session.items if _is_case(item))


def _check_fixtures(item: pytest.Item) -> None:
    """Let the run end with an error where another module replaces a fixture of a benchmark."""
    mark = item.get_closest_marker("property")
    fixtures: Any = getattr(item, "_fixtureinfo", None)
    if mark is None or fixtures is None:
        return
    from saebench.conflicts import replaced_fixture

    sentence = replaced_fixture(fixtures.name2fixturedefs, ours=__name__)
    if sentence is None:
        return
    from saebench.properties import properties

    if mark.kwargs.get("name") in properties():  # otherwise a mark of the project's own
        _session(item.config).refuse(sentence)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> "Generator[None, Any, Any]":
    """Load SAEs, model and data: what does not fit together ends the run with exit code 4.

    SIGTERM ends what follows as Ctrl-C does, where SAEs are judged. One of xdist's workers ends
    with its controller, at once where the system can do that.
    """
    config: Any = session.config
    judging = config.stash.get(SESSION, None)
    is_worker = hasattr(config, "workerinput")
    if is_worker and judging:
        from saebench.scale.process_start import end_with_parent

        end_with_parent()
    if is_worker or not (judging or _names_an_sae(config)):
        _prepare(session, judging)
        return (yield)
    from saebench.termination import sigterm_interrupts

    with sigterm_interrupts():
        _prepare(session, judging)
        try:
            return (yield)
        finally:
            _keep_last_tries(config)


def _keep_last_tries(config: pytest.Config) -> None:
    """Leave each case once in ``--junitxml``: plugins that run a test again add an entry for each.

    Entries of one name are tries of one case where they have a verdict.
    """
    from _pytest.junitxml import xml_key

    written = config.stash.get(xml_key, None)
    if written is None:
        return
    last: dict[tuple[str, str], Any] = {}
    names: dict[Any, tuple[str, str]] = {}
    for entry in written.node_reporters_ordered:
        element = entry.to_xml()
        if any(p.get("name") == "saebench_verdict" for p in element.iter("property")):
            names[entry] = element.attrib["classname"], element.attrib["name"]
            last[names[entry]] = entry
    written.node_reporters_ordered[:] = [
        entry
        for entry in written.node_reporters_ordered
        if entry not in names or last[names[entry]] is entry
    ]


def _prepare(session: pytest.Session, judging: "BenchmarkSession | None") -> None:
    """Load what the selected cases need."""
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
            # Every other case would meet the same error: none of them is measured.
            judging.unusable = str(error)
            judging.not_written |= isinstance(error, StoreError)
            pytest.fail(str(error), pytrace=False)
        _record(request.node, case_properties(case, secondary=False))
        return case

    return measure_case


def _record(item: pytest.Item, properties: list[tuple[str, str]]) -> None:
    """Add properties for JUnit, in place of those of an earlier run of the same test."""
    names = {name for name, _ in properties}
    item.user_properties[:] = [p for p in item.user_properties if p[0] not in names] + properties


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
def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Show one table for each SAE, worst first."""
    judging = config.stash.get(SESSION, None)
    if judging is None and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        _say_what_hides_benchmarks(terminalreporter, config)
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


def _say_what_hides_benchmarks(terminalreporter: Any, config: pytest.Config) -> None:
    """Explain a run of SAEs in which pytest collected no benchmark."""
    if not _names_an_sae(config):
        return
    from saebench.conflicts import hiding_settings

    sentence = hiding_settings(
        {name: config.getini(name) for name in ("python_files", "python_functions")},
        source=str(config.inipath or "the command line"),
    )
    terminalreporter.write_line(f"ERROR: {sentence}", red=True)


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
    if judging.unusable is not None and not judging.not_written:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    complete = exitstatus in (0, 1) and judging.unusable is None
    if hasattr(config, "workeroutput"):
        config.workeroutput |= _worker_output(judging, complete=complete)
        return
    if judging.has_results:
        _write(session, judging, complete=complete)
    if judging.not_written:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
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
    """Write results and baselines; a baseline that is refused fails the run."""
    root = session.config.rootpath
    judging.write(root, complete=complete)
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
    given: dict[str, Any] = item.callspec.params  # pyright: ignore
    # Names with an underscore are of plugins: pytest-repeat counts the runs of a test so.
    params = {name: value for name, value in given.items() if not name.startswith("_")}
    return judging.request(params.pop("sae", ""), mark.kwargs["name"], params)


@contextmanager
def _usage_errors(config: pytest.Config) -> Iterator[None]:
    """Raise saebench's usage errors as pytest's: a message and exit code 4.

    In an xdist worker the controller would take that for a crash: there the tests fail with the
    message, and the controller sets the exit code.
    """
    from saebench.errors import StoreError, UsageError
    from saebench.text import plain_lines

    try:
        yield
    except (StoreError, UsageError) as error:
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
