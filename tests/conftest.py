"""Shared fixtures: real data where it lies beside the project, small random models everywhere."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chosen_gates import gates_of

if TYPE_CHECKING:
    from tiny import TinyWorld

pytest_plugins = ["pytester"]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
JUDGED = ("fidelity", "kl_gap", "shrinkage", "sparsity")


@pytest.fixture(autouse=True)
def _no_job_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own tests, where CI runs them, do not write on the job's page."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture(autouse=True)
def _parts_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests judge a few properties: that alone fails none of their runs' exit codes."""
    monkeypatch.setenv("SAEBENCH_ALLOW_PARTIAL", "1")


@pytest.fixture(autouse=True, scope="session")
def _few_documents_decide() -> Iterator[None]:
    """Our tests judge a few texts each: one document decides a gate, as two have an interval.

    Tests of the minimum itself ask for the fixture ``thirty_documents``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saebench.options.LEAST_DOCUMENTS", 1)
        yield


@pytest.fixture
def thirty_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minimum that users have: 30 independent documents decide a gate."""
    monkeypatch.setattr("saebench.options.LEAST_DOCUMENTS", 30)


@pytest.fixture
def few_documents_decide_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes take the minimum from the environment, as a user would give it."""
    monkeypatch.setenv("SAEBENCH_MIN_DOCUMENTS", "1")


@dataclass(frozen=True)
class RealData:
    """Paths of the real models, SAEs and texts."""

    root: Path

    @property
    def model(self) -> str:
        return str(self.root / "models" / "stories260K")

    @property
    def heldout(self) -> str:
        return str(self.root / "text" / "tinystories-heldout.jsonl")

    def sae(self, name: str) -> str:
        return str(self.root / "saes" / f"stories260K-{name}")


@pytest.fixture(scope="session")
def real_data() -> RealData:
    """The real models, SAEs and texts; skips where they are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data are absent: {SHARED} does not exist")
    return RealData(SHARED)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "TinyWorld":
    """A tiny random model, SAEs on it, and texts: everything runs without the real data."""
    import hypothesis  # noqa: F401
    from tiny import TinyWorld

    import saebench

    world = TinyWorld(tmp_path_factory.mktemp("tiny"))
    # pytester forgets what is first imported inside a run; torch must not be imported twice.
    saebench.judge(world.good, world.model, world.texts, sequences=2)
    return world


@dataclass(frozen=True)
class Gate:
    """Runs the benchmarks in a directory of their own, in this process."""

    pytester: pytest.Pytester
    tiny: "TinyWorld"

    @property
    def json(self) -> Path:
        return self.pytester.path / "out.json"

    def run(self, *args: str) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess(
            "benchmarks", "-p", "no:cacheprovider", "--sae-json", str(self.json), *args
        )

    def judge(self, *args: str) -> pytest.RunResult:
        return self.run(*self.tiny.options(), *args)

    def only(self, *properties: str) -> tuple[str, str]:
        """Return the options by which these properties alone decide: a run of them is whole.

        Without names they are the properties of the fixture's directory.
        """
        path = self.pytester.path / f"only-{len(properties)}.toml"
        path.write_text(gates_of(*(properties or JUDGED)), encoding="utf-8")
        return "--sae-thresholds", str(path)

    def refused(self, *args: str) -> str:
        """Run, make sure of exit code 4 and that nothing was written; return the message."""
        done = self.judge(*args)
        assert done.ret == pytest.ExitCode.USAGE_ERROR, done.stdout.str() + done.stderr.str()
        assert not self.json.exists()
        assert "Traceback" not in done.stderr.str() + done.stdout.str()
        return " ".join(done.stderr.str().split())

    def prepare(self, *args: str) -> None:
        """Read the options, announce the cases and load what they need: a run's first half.

        Raises:
            UsageError: what the run would end with, as exit code 4.
        """
        from saebench.judging.session import BenchmarkSession
        from saebench.options import given_options

        config = self.pytester.parseconfig(*args)
        session = BenchmarkSession(given_options(config), argv=())
        session.announce(
            session.request(sae, name, {}) for name in JUDGED for sae in session.subjects(name)
        )
        session.prepare(self.pytester.path)

    def refusal(self, *args: str) -> str:
        """Return the message that ends a run of these options; nothing is run."""
        from saebench.errors import UsageError
        from saebench.text import plain_lines

        with pytest.raises(UsageError) as caught:
            self.prepare(*self.tiny.options(), *args)
        return " ".join(plain_lines(str(caught.value)).split())

    def result(self) -> dict[str, Any]:
        return json.loads(self.json.read_text(encoding="utf-8"), parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not strict JSON")


@pytest.fixture
def gate_run(pytester: pytest.Pytester, tiny: "TinyWorld") -> Gate:
    """The benchmarks in a directory of their own."""
    (pytester.path / "benchmarks").mkdir()
    for name in JUDGED:
        shutil.copy(BENCHMARKS / f"test_{name}.py", pytester.path / "benchmarks")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    return Gate(pytester, tiny)
