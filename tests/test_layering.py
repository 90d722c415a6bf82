"""Which folder may import which: proved on the source, and in fresh interpreters."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "saebench"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)
HEAVY = {"torch", "numpy", "scipy", "pandas", "sae_lens", "transformer_lens", "transformers",
         "datasets", "pydantic", "rich"}  # fmt: skip
LENSES = {"sae_lens", "transformer_lens"}
GROUND = {
    "errors", "extensions", "text", "progress", "telemetry", "option_kinds", "options", "saebench",
}  # fmt: skip
BELOW_SUBJECTS = {"records", "data", "formats", "measures", "zoo"}
BELOW_EXPERIMENTS = BELOW_SUBJECTS | {"subjects", "substitution"}
BELOW_JUDGING = BELOW_EXPERIMENTS | {
    "statistics", "experiments", "properties", "gates", "compare", "store", "scale",
}  # fmt: skip
# What each folder may import of the others, beside the ground; imports in functions included.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "extensions": set(),
    "text": set(),
    "telemetry": set(),
    "progress": set(),
    "option_kinds": set(),
    "options": set(),
    "conflicts": set(),
    "termination": set(),
    "records": set(),
    "statistics": {"records"},
    "measures": {"records"},
    "data": {"records"},
    "formats": {"records"},
    "zoo": set(),
    "subjects": BELOW_SUBJECTS,
    "substitution": BELOW_SUBJECTS | {"subjects"},
    "experiments": BELOW_EXPERIMENTS | {"statistics"},
    "properties": {"experiments", "statistics", "records", "measures"},
    "gates": {"records", "statistics"},
    "store": {"records"},
    "compare": {"properties", "experiments", "statistics", "store", "records", "gates"},
    "scale": BELOW_EXPERIMENTS | {"experiments", "store"},
    "report": {"records", "compare"},
    "judging": BELOW_JUDGING | {"report"},
    "fit": BELOW_JUDGING | {"judging", "report"},
    "cli": BELOW_JUDGING | {"judging", "report", "fit", "termination"},
    "xdist": {"judging"},
    "plugin": BELOW_JUDGING | {"judging", "report", "xdist", "conflicts", "termination"},
}
NO_TORCH = ("records", "statistics", "gates", "store", "properties", "compare", "report", "cli")


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Give every node that is run: what only a type checker reads is no import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _nodes(node)


@cache
def _imported(path: Path) -> frozenset[str]:
    """Return the dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides what it imports"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _room(path: Path) -> str:
    """Return the folder of the table that a file is in, or the file itself at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _room_of(name: str) -> str:
    """Return the folder that an imported name comes from; of a name of the package, itself."""
    _, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    if not room:
        return "saebench"
    return room if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists() else "saebench"


def _module(path: Path) -> str:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


def _modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_table_has_a_row_for_every_folder_and_every_file_at_the_top():
    rooms = {_room(path) for path in SOURCES} - {"__init__"}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_folder_imports_only_what_its_row_allows(room: str):
    allowed = MAY_IMPORT[room] | GROUND | {room}
    wrong = {
        f"{_where(path)} imports {name}"
        for path in SOURCES
        if _room(path) == room
        for name in _imported(path)
        if name.partition(".")[0] == "saebench" and _room_of(name) not in allowed
    }
    assert not wrong


def test_no_circle_of_files():
    modules = {_module(path) for path in SOURCES}
    graph = networkx.DiGraph()
    for path in SOURCES:
        for name in _imported(path):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target not in ("saebench", _module(path)):
                graph.add_edge(_module(path), target)
    assert not [sorted(c) for c in networkx.strongly_connected_components(graph) if len(c) > 1]


def test_no_two_files_have_one_name():
    names = [path.name for path in SOURCES if path.stem not in ("__init__", "base")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_only_the_plugin_and_the_benchmarks_import_pytest():
    importing = {
        _where(path)
        for path in [*SOURCES, *ROOT.glob("benchmarks/*.py")]
        if {n.partition(".")[0] for n in _imported(path)} & {"pytest", "_pytest"}
    }
    inside = {where for where in importing if not where.startswith("benchmarks/")}
    assert inside == {"saebench/plugin.py"}


def test_the_lenses_are_imported_where_saes_and_models_are_read_or_fitted():
    importing = {
        _room(path) for path in SOURCES if {n.partition(".")[0] for n in _imported(path)} & LENSES
    }
    assert "subjects" in importing
    assert importing <= {"formats", "subjects", "fit"}


@pytest.mark.parametrize("statement", ["import saebench", "import saebench.plugin"])
def test_every_pytest_run_of_the_environment_loads_nothing_heavy(statement: str):
    assert not _modules_after(statement) & HEAVY


def test_the_command_line_alone_imports_nothing_heavy_nor_pytest():
    assert not _modules_after("import saebench.cli") & (HEAVY | {"pytest"})


@pytest.mark.parametrize("room", NO_TORCH)
def test_a_folder_that_measures_nothing_imports_no_torch(room: str):
    modules = [_module(path) for path in SOURCES if _room(path) == room]
    assert modules
    loaded = _modules_after("import " + ", ".join(modules))
    assert not loaded & {"torch", *LENSES}
    assert room != "cli" or "pytest" not in loaded


def test_what_experiments_are_is_declared_without_torch():
    assert not _modules_after("import saebench.experiments.base") & {"torch", *LENSES}


def test_workers_are_started_before_torch_is_imported():
    """They then load while pytest's own process still does."""
    statement = "import saebench.scale.workplace, saebench.scale.processes"
    assert not _modules_after(statement) & {"torch", "transformers", *LENSES}


def test_no_module_seeds_globally():
    found = [
        _where(path)
        for path in SOURCES
        if any(
            call in path.read_text(encoding="utf-8")
            for call in ("manual_seed(", "np.random.seed(", "random.seed(")
        )
        and "Generator().manual_seed(" not in path.read_text(encoding="utf-8")
    ]
    assert not found
