"""The pytest plugin: options, parametrisation over SAEs, fixtures, summary. Thin.

It loads in every pytest run of the environment: everything heavy is imported when a benchmark
is collected, or later.
"""

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from saebench.judging.session import BenchmarkSession
    from saebench.results import CaseResult

WIDE = 100
SHARED: pytest.StashKey[bool] = pytest.StashKey()
STASH: pytest.StashKey["BenchmarkSession"] = pytest.StashKey()

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--sae-model": ("host model, where the SAE's metadata is not enough: directory or name", {}),
    "--sae-dataset": ("texts: .jsonl, .txt, .parquet, a saved data set, or a hub NAME[:SPLIT]", {}),
    "--sae-cloze": ("cloze prompts: a file, a saved data set, lambada_openai, lambada, cbt_cn", {}),
    "--sae-profile": ("how much data by default: smoke, standard (default) or release", {}),
    "--sae-sequences": ("number of sequences (default: the profile's)", {"type": int}),
    "--sae-prompts": ("number of cloze prompts (default: the profile's)", {"type": int}),
    "--sae-context": ("tokens in each (default: the SAE's training context)", {"type": int}),
    "--sae-batch-size": ("sequences at once (default: chosen)", {"type": int}),
    "--sae-position": (
        "of the token substituted alone: single_token, kl_gap[single] (default 32)",
        {"type": int},
    ),
    "--sae-draw-position": (
        "of the token substituted by many random errors (default 48)",
        {"type": int},
    ),
    "--sae-draws": ("how many random errors (default: the profile's, 50 or 500)", {"type": int}),
    "--sae-seed": ("root seed of all noise (default 0)", {"type": int}),
    "--sae-device": ("torch device (default: cuda where there is one, else cpu)", {}),
    "--sae-dtype": ("of the model: float32 (default), bfloat16, float16", {}),
    "--sae-packing": ("documents (default): one a sequence; packed: joined and cut", {}),
    "--sae-hook": ("the SAE's hook, where its metadata has none", {}),
    "--sae-hook-out": ("a transcoder's output hook, where its metadata has none", {}),
    "--sae-training-context": ("its training context, where its metadata has none", {"type": int}),
    "--sae-prepend-bos": ("true or false: BOS first, where its metadata does not say", {}),
    "--sae-interventions": ("comma-separated baselines of kl_gap (default: all)", {}),
    "--sae-thresholds": ("threshold file (default: baselines/thresholds.toml)", {}),
    "--sae-baseline": (
        "hold the run against these: a baseline file, a directory of them, a git ref, REF:PATH",
        {},
    ),
    "--sae-inconclusive": ("what an undecided gate does: fail (default) or warn", {}),
    "--sae-json": ("write the result file here", {}),
    "--sae-md": ("write a Markdown summary here", {}),
    "--sae-engine": ("where shards are measured: local (default) or ray", {}),
    "--sae-workers": ("processes, or Ray actors, that share the sequences", {"type": int}),
    "--sae-ray-address": ("of a running Ray cluster, or auto (default: one on this machine)", {}),
    "--sae-run-dir": ("keep finished shards here: the same command goes on where it stopped", {}),
    "--sae-rerun": ("shards of the run directory: missing (default), failed, always, never", {}),
    "--sae-shard-sequences": ("sequences of a shard (default: 8192 tokens' worth)", {"type": int}),
    "--sae-worker-threads": ("threads of each worker (default 1)", {"type": int}),
    "--sae-worker-gpus": ("GPUs of each Ray worker, 0.25 for a quarter", {}),
    "--sae-html": ("write the report here: one page for a browser, which needs no network", {}),
}


FLAGS = {
    "--sae-cost": "time the cost cases too (else only where nothing but cost is selected: -k cost)",
    "--sae-stop-early": "measure in rounds of sequences; end where every primary gate is decided",
    "--sae-update-baselines": "store what this run measured as baselines, printing old → new",
    "--sae-update-new": "store baselines of cases that have none yet",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options; each has an environment twin, SAEBENCH_… for --sae-…."""
    group = parser.getgroup("saebench", "release gate for sparse autoencoders (saebench)")
    group.addoption(
        "--sae",
        action="append",
        metavar="SPEC",
        help="an SAE to judge, repeatable: a SAELens directory, a glob of them, "
        "release:sae_id, or org/repo:path",
    )
    group.addoption(
        "--sae-fail-on",
        action="append",
        metavar="RULE",
        help="a further gate, repeatable: 'kl_gap.ratio[eps_random]<=2', 'fidelity.kl in [0,0.1]'",
    )
    group.addoption(
        "--sae-score-bos",
        action="store_true",
        default=None,
        help="substitute and score position 0 and special tokens too",
    )
    for name, about in FLAGS.items():
        group.addoption(name, action="store_true", default=None, help=about)
    for name, (about, extra) in OPTIONS.items():
        group.addoption(name, metavar="X", default=None, help=about, **extra)


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
    from saebench.judging.sharing import BySae

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
        from saebench.report.junit import case_properties

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
        from saebench.shown import plain_lines

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
    from saebench.report.table import render
    from saebench.shown import plain_text

    writer = terminalreporter._tw
    terminalreporter.section("saebench")
    run = benches.run(complete=True)
    # Where the output is no terminal nothing is too wide; pytest takes 80 columns there.
    width = writer.fullwidth if writer._file.isatty() else max(writer.fullwidth, WIDE)
    shown = render(run, width=width, colour=writer.hasmarkup)
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
        from saebench.store.result_file import parse_run
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
        from saebench.store.result_file import dump_run
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
    from saebench.privacy import switch_telemetry_off

    switch_telemetry_off()
    from saebench.judging.session import BenchmarkSession
    from saebench.report.reproduce import joined_arguments

    if STASH not in config.stash:
        typed = map(str, config.invocation_params.args)
        places = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else ()
        argv = ("pytest", *joined_arguments(typed, places))
        config.stash[STASH] = BenchmarkSession(_options(config), argv=argv)
        config.stash[STASH].share_out(_workers(config))
    return config.stash[STASH]


def _names_an_sae(config: pytest.Config) -> bool:
    """Return whether the run is told an SAE; any run of the environment may ask."""
    try:
        return "sae" in _options(config)
    except tomllib.TOMLDecodeError:  # told where benchmarks are collected, no other run's concern
        return False


def _workers(config: Any) -> int:
    """Return how many processes share the run, in one of xdist's workers; elsewhere 1."""
    return getattr(config, "workerinput", {}).get("workercount", 1)


def _options(config: pytest.Config) -> dict[str, Any]:
    """Return the options that were given: command line over environment over [tool.saebench]."""
    listed = {"sae": "--sae", "sae_fail_on": "--sae-fail-on", "sae_score_bos": "--sae-score-bos"}
    listed |= {name[2:].replace("-", "_"): name for name in FLAGS}
    listed |= {name[2:].replace("-", "_"): name for name in OPTIONS}
    table = _project_table(config.rootpath)
    known = {name.removeprefix("--sae-").removeprefix("--") for name in listed.values()}
    found: dict[str, Any] = {}
    if set(table) - known:
        found["unknown"] = (sorted(set(table) - known)[0], sorted(known))
    for key, option in listed.items():
        short = "sae" if option == "--sae" else key.removeprefix("sae_")
        twin = "SAEBENCH_" + short.upper()
        value = config.getoption(option)
        if value is None:
            value = os.environ.get(twin, table.get(short.replace("_", "-")))
        if value is not None:
            found[short] = value
    return found


def _project_table(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    if not path.is_file():
        return {}
    return tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("saebench", {})


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
    from saebench.shown import plain_lines

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
        from saebench.judging.progress import progress_bar

        if capture is None:
            with progress_bar(what, tokens) as advance:
                yield advance
            return
        with capture.global_and_fixture_disabled(), progress_bar(what, tokens) as advance:
            yield advance

    return shown
