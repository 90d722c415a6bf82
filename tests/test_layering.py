"""The arrows of DESIGN.md point one way: proved on the source and in fresh interpreters."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "saebench"
HEAVY = ("torch", "numpy", "scipy", "pandas", "sae_lens", "transformer_lens", "transformers",
         "datasets")  # fmt: skip
LENSES = {"sae_lens", "transformer_lens"}
# Packages that may not be imported from where.
FORBIDDEN = {
    "measures": {"substitution", "subjects", "data", "properties", "judging", "gates", "store",
                 "report", "statistics"},
    "statistics": {"substitution", "subjects", "data", "properties", "judging", "gates", "store",
                   "report", "measures"},
    "gates": {"substitution", "subjects", "data", "properties", "judging", "store", "report"},
    "store": {"substitution", "subjects", "properties", "judging", "measures", "statistics"},
    "report": {"substitution", "subjects", "properties", "judging", "measures", "statistics"},
    "data": {"substitution", "subjects", "properties", "judging", "gates", "store", "report"},
    "subjects": {"substitution", "properties", "judging", "gates", "store", "report"},
    "substitution": {"properties", "judging", "gates", "store", "report", "statistics"},
    "properties": {"subjects", "data", "judging", "gates", "store", "report"},
    "fitting": {"properties", "judging", "gates", "report", "statistics", "measures"},
    "repair": {"gates", "report", "training"},
}  # fmt: skip
# What is built on top of judging: nobody below knows of it.
ON_TOP = {"repair", "training", "cli"}
FORBIDDEN = {package: below | (ON_TOP - {package}) for package, below in FORBIDDEN.items()}
FORBIDDEN |= {"judging": {"repair", "training", "fitting", "cli", "plugin"}}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _imported(path: Path, *, with_type_checking: bool = True) -> Iterator[str]:
    """Give the dotted names that a file imports, wherever in it."""
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), with_type_checking):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its arrow"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _nodes(tree: ast.AST, with_type_checking: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        hidden = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if hidden and not with_type_checking:
            continue
        yield node
        yield from _nodes(node, with_type_checking)


def _where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_plugin_imports_nothing_heavy():
    assert not _modules_after("import saebench.plugin") & set(HEAVY)


def test_the_package_itself_imports_nothing_heavy():
    assert not _modules_after("import saebench") & set(HEAVY)


@pytest.mark.parametrize("package", ["gates", "store", "report"])
def test_what_decides_and_reports_imports_no_torch(package: str):
    modules = [p.stem for p in (PACKAGE / package).glob("*.py") if p.stem != "__init__"]
    assert modules
    statement = "import " + ", ".join(f"saebench.{package}.{m}" for m in modules)
    assert not _modules_after(statement) & {"torch", "sae_lens", "transformer_lens"}


def test_only_the_plugin_and_the_benchmarks_import_pytest():
    importing = {
        _where(path)
        for path in [*SOURCES, *ROOT.glob("benchmarks/*.py")]
        if {n.partition(".")[0] for n in _imported(path)} & {"pytest", "_pytest"}
    }
    assert "saebench/plugin.py" in importing
    inside = {w for w in importing if not w.startswith("benchmarks/")}
    assert inside == {"saebench/plugin.py"}


def test_the_command_line_alone_imports_nothing_heavy_nor_pytest():
    assert not _modules_after("import saebench.cli") & {"pytest", "rich", "pydantic", *HEAVY}


@pytest.mark.parametrize("command", sorted(p.stem for p in (PACKAGE / "cli").glob("[!_]*.py")))
def test_no_subcommand_imports_torch_before_it_is_asked_to(command: str):
    assert not _modules_after(f"import saebench.cli.{command}") & {"pytest", "torch", *LENSES}


def test_workers_are_hired_before_torch_is_imported():
    """They then load while pytest's own process still does."""
    statement = "import saebench.scale.workplace, saebench.scale.processes"
    assert not _modules_after(statement) & {"torch", "transformers", *LENSES}


def test_only_subjects_repair_and_training_import_the_lenses():
    importing = {
        path.relative_to(PACKAGE).parts[0]
        for path in SOURCES
        if {n.partition(".")[0] for n in _imported(path)} & LENSES
    }
    assert "subjects" in importing
    assert importing <= {"subjects", "repair", "training"}


def test_results_imports_nothing_of_saebench():
    assert not [n for n in _imported(PACKAGE / "results.py") if n.startswith("saebench")]


def test_what_a_repair_found_is_data_that_knows_results_alone():
    found = [n for n in _imported(PACKAGE / "repairs.py") if n.startswith("saebench")]
    assert found
    assert all(name.startswith("saebench.results.") for name in found)


def test_only_repair_and_training_fit():
    importing = {
        path.relative_to(PACKAGE).parts[0]
        for path in SOURCES
        if any(name.startswith("saebench.fitting") for name in _imported(path))
    }
    assert "repair" in importing
    assert importing <= {"fitting", "repair", "training"}


def test_of_repair_the_command_line_takes_only_names_before_it_is_asked_to_run():
    found = {
        name
        for path in (PACKAGE / "cli").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saebench.repair.")
        for name in [node.module]
    }
    assert found == {"saebench.repair.methods"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_arrow_points_backwards(package: str):
    """Types that only a checker reads are no arrow; the one allowed exception is names."""
    found = set()
    for path in (PACKAGE / package).rglob("*.py"):
        for name in _imported(path, with_type_checking=False):
            parts = name.split(".")
            if parts[0] == "saebench" and len(parts) > 1 and parts[1] in FORBIDDEN[package]:
                found.add(f"{_where(path)} imports {name}")
    assert not found


def test_properties_take_only_names_and_measurements_from_substitution():
    """Measurements only as types: reading them needs no torch."""
    for path in (PACKAGE / "properties").rglob("*.py"):
        run = {n for n in _imported(path, with_type_checking=False) if ".substitution" in n}
        read = {n for n in _imported(path) if ".substitution" in n} - run
        assert all(n.startswith("saebench.substitution.names.") for n in run), path
        assert all(n.endswith(("Measurement", "Workload")) for n in read), path


def test_properties_import_no_torch():
    modules = [p.stem for p in (PACKAGE / "properties").glob("*.py") if p.stem != "__init__"]
    statement = "import " + ", ".join(f"saebench.properties.{m}" for m in modules)
    assert not _modules_after(statement) & {"torch", *LENSES}


def test_gates_know_results_and_errors_alone():
    allowed = ("saebench.results", "saebench.errors", "saebench.gates")
    found = {
        name
        for path in (PACKAGE / "gates").rglob("*.py")
        for name in _imported(path)
        if name.startswith("saebench") and not name.startswith(allowed)
    }
    assert not found


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
