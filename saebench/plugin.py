"""The pytest plugin: options, parametrisation over SAEs, fixtures, summary. Thin.

It loads in every pytest run of the environment: everything heavy is imported when a benchmark
is collected, or later.
"""

import tomllib
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
SHARED: pytest.StashKey[bool] = pytest.StashKey()
STASH: pytest.StashKey["BenchmarkSession"] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options; each has an environment twin, SAEBENCH_… for --sae-…."""
    declare(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark that says which property a benchmark judges."""
    config.addinivalue_line(
        "markers", "property(name): the faithfulness property that a benchmark judges"
    )


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> "Generator[None, Any, Any]":
    """See whether ``-n`` leaves the distribution to us, before xdist fills in its own."""
    option = config.option
    distributed = bool(getattr(option, "numprocesses", None)) and option.dist == "no"
    config.stash[SHARED] = distributed and _names_an_sae(config)
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Keep the cases of one SAE in one process, where no ``--dist`` says otherwise."""
    if not config.stash.get(SHARED, False):
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
    """Time nothing that nobody asked to be timed; what is timed comes last."""
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
    """Announce the selected cases, or refuse what cannot be judged, before anything runs."""
    benches = session.config.stash.get(STASH, None)
    if benches is None:
        return
    with _usage_errors(session.config):
        benches.announce(_request(item, benches) for item in session.items if _is_case(item))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Load SAEs, model and data: what does not fit together ends the run with exit code 4."""
    benches = session.config.stash.get(STASH, None)
    if benches is None or session.config.option.collectonly or session.testsfailed:
        return
    if benches.unusable is not None:
        return
    with _usage_errors(session.config):
        benches.prepare(session.config.rootpath)


@pytest.fixture
def measure(
    request: pytest.FixtureRequest, sae: str, pytestconfig: pytest.Config
) -> "Callable[..., CaseResult]":
    """Return the function that measures the benchmark's property of this SAE, and decides."""

    def measured(name: str, **params: Any) -> "CaseResult":
        from saebench.errors import StoreError, UsageError
        from saebench.report.exports.junit import case_properties

        unusable = _session(pytestconfig).unusable
        if unusable is not None:
            pytest.fail(unusable, pytrace=False)
        case = _session(pytestconfig).request(sae, name, params)
        try:
            found = _session(pytestconfig).case(case, progress=_progress(pytestconfig))
        except (StoreError, UsageError) as error:
            # The rest would meet the same: nothing more is measured, and the exit code says so.
            _session(pytestconfig).unusable = str(error)
            pytest.fail(str(error), pytrace=False)
        request.node.user_properties += case_properties(found, secondary=False)
        return found

    return measured


@pytest.fixture
def workload(sae: str, pytestconfig: pytest.Config) -> "Callable[[str], Callable[[], None]]":
    """Return the function that gives one round of a part to be timed, by the part's name."""

    def chosen(part: str) -> "Callable[[], None]":
        return _session(pytestconfig).judge.workload(sae).part(part)

    return chosen


@pytest.fixture
def gate(pytestconfig: pytest.Config) -> "Callable[[CaseResult], None]":
    """Return the function that fails the test where the case did not pass."""

    def gated(case: "CaseResult") -> None:
        from saebench.text import plain_lines

        if case.verdict == "SKIPPED":
            pytest.skip(plain_lines(case.reason))
        reason = _session(pytestconfig).failure(case)
        if reason:
            pytest.fail(plain_lines(reason), pytrace=False)

    return gated


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show one table for each SAE, worst first."""
    benches = config.stash.get(STASH, None)
    if benches is not None and benches.unusable is not None:
        terminalreporter.write_line(f"ERROR: {benches.unusable}", red=True)
    if benches is None or not benches.has_results:
        return
    from saebench.report.terminal import render
    from saebench.text import plain_text

    writer = terminalreporter._tw
    terminalreporter.section("saebench")
    run = benches.run(complete=True)
    # Where the output is no terminal nothing is too wide; pytest takes 80 columns there.
    width = writer.fullwidth if writer._file.isatty() else max(writer.fullwidth, WIDE)
    encoding = getattr(writer._file, "encoding", None) or "utf-8"
    shown = render(run, width=width, colour=writer.hasmarkup, encoding=encoding)
    for line in shown.rstrip().splitlines():
        terminalreporter.write_line(line.rstrip())
    for line in [*benches.closing_lines(), *benches.updates]:
        terminalreporter.write_line(plain_text(line))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:  # noqa: ARG001
    """Take the results of an xdist worker that is done."""
    output = getattr(node, "workeroutput", {})
    if not any(key.startswith("saebench") for key in output):
        return
    benches = _session(node.config)
    benches.unusable = benches.unusable or output.get("saebench_unusable")
    benches.expect(output.get("saebench_announced", ()))
    sent = output.get("saebench")
    if sent is not None:
        from saebench.store.json_files import parse_run
        from saebench.store.sums_file import parse_sums

        where = f"worker {node.gateway.id}"
        _, sums = parse_sums(output["saebench_sums"], where=where)
        benches.add(parse_run(sent, where=where), sums)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the results; an xdist worker hands its own to the controller."""
    config: Any = session.config
    benches = config.stash.get(STASH, None)
    if benches is not None:
        benches.close()
    if benches is not None and hasattr(config, "workeroutput"):
        config.workeroutput["saebench_announced"] = benches.announced
    if benches is not None and benches.unusable is not None:
        if hasattr(config, "workeroutput"):
            config.workeroutput["saebench_unusable"] = benches.unusable
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if benches is None or not benches.has_results:
        return
    complete = exitstatus in (0, 1) and benches.unusable is None
    if hasattr(config, "workeroutput"):
        from saebench.store.json_files import dump_run
        from saebench.store.sums_file import dump_sums

        run = benches.run(complete=complete)
        config.workeroutput["saebench"] = dump_run(run)
        config.workeroutput["saebench_sums"] = dump_sums(benches.sums(), run_id=run.run.id)
    else:
        _write(session, benches, complete=complete)


def _write(session: pytest.Session, benches: "BenchmarkSession", *, complete: bool) -> None:
    """Write results and baselines; what could not be written is in the exit code."""
    root = session.config.rootpath
    benches.write(root, complete=complete)
    if benches.unusable is not None:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    benches.update_baselines(root, complete=complete)
    if benches.refused and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _session(config: pytest.Config) -> "BenchmarkSession":
    """Return the run's session, made when the first benchmark is collected."""
    from saebench.telemetry import switch_telemetry_off

    switch_telemetry_off()
    from saebench.judging.session import BenchmarkSession
    from saebench.report.reproduce import joined_arguments
    from saebench.text import from_system

    if STASH not in config.stash:
        typed = map(from_system, map(str, config.invocation_params.args))
        are_places = config.args_source is pytest.Config.ArgsSource.ARGS
        places = map(from_system, config.args if are_places else ())
        argv = ("pytest", *joined_arguments(typed, places))
        config.stash[STASH] = BenchmarkSession(given_options(config), argv=argv)
        _let_pytest_warn_of_its_cache(config)
        config.stash[STASH].share_out(_workers(config))
    return config.stash[STASH]


def _let_pytest_warn_of_its_cache(config: Any) -> None:
    """Keep a cache that cannot be written from ending a run whose warnings are errors.

    Where the directory is read-only, pytest warns of its own cache once all is judged: raised
    there, an internal error would take the verdict's place. It is still shown.
    """
    shown = "default::pytest.PytestCacheWarning"
    config.addinivalue_line("filterwarnings", shown)
    typed = getattr(config.known_args_namespace, "pythonwarnings", None)
    if typed is not None:  # -W comes after what the configuration file says
        typed.append(shown)


def _names_an_sae(config: pytest.Config) -> bool:
    """Return whether the run is told an SAE; any run of the environment may ask."""
    try:
        return "sae" in given_options(config)
    except tomllib.TOMLDecodeError:  # told where benchmarks are collected, no other run's concern
        return False


def _workers(config: Any) -> int:
    """Return how many processes share the run, in one of xdist's workers; elsewhere 1."""
    return getattr(config, "workerinput", {}).get("workercount", 1)


def _is_case(item: pytest.Item) -> bool:
    return item.get_closest_marker("property") is not None and hasattr(item, "callspec")


def _is_timed(item: pytest.Item) -> bool:
    return _is_case(item) and "workload" in getattr(item, "fixturenames", ())


def _request(item: pytest.Item, benches: "BenchmarkSession") -> Any:
    mark = item.get_closest_marker("property")
    assert mark is not None
    params: dict[str, Any] = dict(item.callspec.params)  # pyright: ignore
    return benches.request(params.pop("sae", ""), mark.kwargs["name"], params)


@contextmanager
def _usage_errors(config: pytest.Config) -> Iterator[None]:
    """Turn our usage errors into pytest's: a message and exit code 4.

    An xdist worker must not stop so, the controller would take it for a crash: its tests fail
    with the message instead, and the controller sets the exit code.
    """
    from saebench.errors import UsageError
    from saebench.text import plain_lines

    try:
        yield
    except UsageError as error:
        if not hasattr(config, "workeroutput"):
            raise pytest.UsageError(plain_lines(str(error))) from error
        config.stash[STASH].unusable = plain_lines(str(error))


def _progress(config: pytest.Config) -> Any:
    """Return the progress bar, shown although pytest captures the terminal."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")

    @contextmanager
    def shown(what: str, tokens: int) -> Iterator[Any]:
        from saebench.progress import progress_bar

        if capture is None:
            with progress_bar(what, tokens) as advance:
                yield advance
            return
        with capture.global_and_fixture_disabled(), progress_bar(what, tokens) as advance:
            yield advance

    return shown
