"""What can be known to be wrong before anything runs: `mlops check`, and the first task of every DAG.

`check` takes about a second: params.yaml itself; each source's columns, formulas and suite; each model's target,
features and estimators. It reads at most the head of a source and computes nothing. `examine`, which `mlops check`
runs, reads the source's newest rows too, and lets the code of the later steps judge them: Great Expectations loads the
suites, and what stops a training, or makes its figures too good, is named. Neither needs a database or a service.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from include import settings
from include.settings import ColumnType, Lines, Model, Params, ParamsError, Source
from include.text import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from include.features.feature_set import FeatureSet


@dataclass(frozen=True)
class Finding:
    """One mistake: where it stands, and what to do about it."""

    file: str
    line: int
    key: str
    message: str
    warning: bool = False
    """Whether all runs in spite of it."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'warning: ' if self.warning else ''}{self.key}: {self.message}"


def check(params_path: Path | str, *, root: Path = settings.ROOT, suites: Path | None = None) -> list[Finding]:
    """All mistakes, in the order of the file; an empty list when there is none.

    Args:
        params_path: params.yaml.
        root: The repository, which holds include/.
        suites: The folder of the Great Expectations suites; default: the repository's.
    """
    return [finding for finding in _run(_Checker, params_path, root, suites) if not finding.warning]


def examine(params_path: Path | str, *, root: Path = settings.ROOT, suites: Path | None = None) -> list[Finding]:
    """As `check`, with what the newest rows of each source show, and with warnings: what runs, but deserves a thought.

    It takes a few seconds, as long as it takes to read a file of each source and to load Great Expectations.
    """
    return _run(_Examiner, params_path, root, suites)


def _run(kind: type[_Checker], params_path: Path | str, root: Path, suites: Path | None) -> list[Finding]:
    path = Path(params_path)
    try:
        params = settings.load_params(path)
    except ParamsError as error:
        return [_parsed(line, path.name) for line in str(error).splitlines()]
    checker = kind(path.name, Lines(path.read_text(encoding="utf-8")), root, suites or default_suites(root))
    for name, source in params.sources.items():
        _apart(checker, ("sources", name), partial(checker.source, name, source))
    for name in params.models:
        _apart(checker, ("models", name), partial(checker.model, name, params))
    return sorted(checker.findings, key=lambda finding: finding.line)


def _apart(checker: _Checker, key: tuple[str, ...], check_entry: Callable[[], None]) -> None:
    """Check one entry; whatever is raised about it is a finding about it, and the others are checked all the same."""
    try:
        check_entry()
    except Exception as error:  # noqa: BLE001  (a definition file may raise anything when it is read)
        checker.report(key, f"could not be checked: {type(error).__name__}: {error}")


def require(params_path: Path | str, *, root: Path = settings.ROOT, suites: Path | None = None) -> Params:
    """params.yaml, when there is nothing wrong with it.

    Raises:
        ParamsError: one line per mistake.
    """
    if findings := check(params_path, root=root, suites=suites):
        raise ParamsError("\n".join(map(str, findings)))
    return settings.load_params(params_path)


def default_suites(root: Path) -> Path:
    """Where the repository keeps its suites."""
    return root / "great_expectations" / "expectations"


def _parsed(line: str, file: str) -> Finding:
    found = re.match(r"^.*?:(\d+): (\S+): (.*)$", line)
    return Finding(file, int(found[1]), found[2], found[3]) if found else Finding(file, 1, "(top)", line)


class _Checker:
    """Collects findings, and knows the line of each key."""

    def __init__(self, file: str, lines: Lines, root: Path, suites: Path) -> None:
        self.findings: list[Finding] = []
        self.columns: dict[str, dict[str, ColumnType] | None] = {}
        self._file, self._lines, self._root, self._suites = file, lines, root, suites

    def report(self, key: tuple[str, ...], message: str, *, warning: bool = False) -> None:
        text = " ".join(message.split())
        self.findings.append(Finding(self._file, self._lines.of(*key), ".".join(key), text, warning))

    def source(self, name: str, source: Source) -> None:
        from include.formulas import FormulaError
        from include.ingestion import sources

        self.columns[name] = None
        try:
            self.columns[name] = columns = sources.columns_of(source)
        except FormulaError as error:
            named = re.match(r"^derive\.(\w+): (.*)$", str(error), re.DOTALL)
            blamed = named[1] if named else next((c for c, t in source.derive.items() if repr(t) in str(error)), None)
            self.report(("sources", name, "derive", *([blamed] if blamed else [])), named[2] if named else str(error))
        except (sources.SourceError, OSError) as error:
            self.unreadable(name, source, error)
        else:
            if source.time_column and columns.get(source.time_column) not in ("timestamp", "date"):
                self.report(("sources", name, "time_column"), _not_a_time(source.time_column, columns))
        self.suite(name, source)

    def unreadable(self, name: str, source: Source, error: Exception) -> None:
        """What extraction would raise, at the key that the message begins with, if it begins with one."""
        key, _, message = str(error).partition(": ")
        if key in type(source).model_fields:
            self.report(("sources", name, key), message)
        else:
            self.report(("sources", name, "path" if source.type == "files" else "type"), str(error))

    def suite(self, name: str, source: Source) -> None:
        """What is wrong with the suite, without Great Expectations: names of columns, severities, the file itself."""
        from include.ingestion import suites

        path = suites.path_of(self._suites, name, source.suite)
        if not path.is_file():
            known = [p.stem for p in self._suites.glob("*.json")] if self._suites.is_dir() else []
            hint = did_you_mean(path.stem, known) if source.suite else ""
            remedy = hint or f"; `mlops suite {name}` proposes one"
            self.report(("sources", name, "suite"), f"there is no suite {path}{remedy}")
            return
        columns = self.columns[name]
        try:
            mistakes = suites.check(path, columns) if columns is not None else []
            if columns is None:
                suites.rules(path)
        except suites.SuiteError as error:
            mistakes = [str(error)]
        for mistake in mistakes:
            self.report(("sources", name, "suite"), mistake)

    def model(self, name: str, params: Params) -> None:
        entry = params.models[name]
        self.estimators(name, entry)
        columns = self.columns.get(entry.source)
        if columns is None:
            return  # said already, of the source
        time_column = params.time_column(name)
        missing = False
        for key, column in (("target", entry.target), ("entity", entry.entity), ("time_column", entry.time_column)):
            if column is not None and column not in columns:
                missing = True
                known = did_you_mean(column, columns) or f"; it has {', '.join(columns)}"
                self.report(("models", name, key), f"the source {entry.source!r} has no column {column!r}{known}")
        if missing:
            return
        if time_column and columns.get(time_column) not in ("timestamp", "date"):
            if entry.time_column:
                self.report(("models", name, "time_column"), _not_a_time(time_column, columns))
            return
        if problem := _unfit(entry, columns[entry.target]):
            self.report(("models", name, "target"), problem)
        self.features(name, params, columns)

    def features(self, name: str, params: Params, columns: dict[str, ColumnType]) -> None:
        from include.features.compiler import compile_model
        from include.features.feature_set import FeatureError

        try:
            feature_set = compile_model(params, name, columns, root=self._root)
        except FeatureError as error:
            found = re.match(r"^([a-z_]+(?:\.\w+)*): (.*)$", str(error), re.DOTALL)
            key, message = (found[1], found[2]) if found else ("features.definition", str(error))
            self.report(("models", name, *key.split(".")), message)
        else:
            for column, why in feature_set.left_out.items():
                self.report(("models", name, "features"), f"{column!r} is no input: {why}", warning=True)
            self.serving(name, params.models[name], feature_set.inputs)
            self.rows(name, params.models[name], feature_set, params.time_column(name))

    def rows(self, name: str, entry: Model, feature_set: FeatureSet, time_column: str | None) -> None:
        """What a model's rows show; nothing here, where none are read."""

    def serving(self, name: str, entry: Model, inputs: dict[str, ColumnType]) -> None:
        """The policies, units and logged columns must be of inputs: one that is misspelt would protect nothing."""
        where, serving = ("models", name, "serving"), entry.serving
        logged = () if isinstance(serving.log.inputs, str) else serving.log.inputs
        named: list[tuple[tuple[str, ...], str]] = [((*where, "fields", field), field) for field in serving.fields]
        named += [((*where, "units", field), field) for field in serving.units if field != entry.target]
        named += [((*where, "log", "inputs", str(n)), field) for n, field in enumerate(logged)]
        for key, field in named:
            if field not in inputs:
                known = did_you_mean(field, inputs) or f"; there are {', '.join(inputs)}"
                self.report(key, f"the model has no input {field!r}{known}")
        for field, policy in serving.fields.items():
            kind = inputs.get(field, "string")
            if policy.out_of_range and kind not in ("float", "int") and field in inputs:
                self.report((*where, "fields", field, "out_of_range"), f"{field!r} is {kind}, which has no range")
            if policy.unknown_category and kind in ("timestamp", "date", "bool"):
                self.report(
                    (*where, "fields", field, "unknown_category"), f"{field!r} is {kind}, which has no categories"
                )

    def estimators(self, name: str, entry: Model) -> None:
        from include.training import estimators

        for estimator, space in entry.estimators.items():
            try:
                estimators.check(estimator, space, entry.task)
            except estimators.EstimatorError as error:
                for line in str(error).splitlines():
                    key, _, message = line.partition(": ")
                    self.report(("models", name, "estimators", *key.split(".")), message)


class _Examiner(_Checker):
    """A checker that reads the newest rows, too."""

    def __init__(self, file: str, lines: Lines, root: Path, suites: Path) -> None:
        super().__init__(file, lines, root, suites)
        self._newest: dict[str, tuple[pa.Table, bool]] = {}

    def source(self, name: str, source: Source) -> None:
        """As before; then the newest rows as extraction reads them."""
        from include.formulas import FormulaError
        from include.ingestion import profile, sources

        super().source(name, source)
        if self.columns[name] is None:
            return
        try:
            table, whole = sources.newest_rows(source)
        except (sources.SourceError, OSError) as error:
            self.unreadable(name, source, error)
        except (FormulaError, TypeError, ValueError) as error:
            self.report(("sources", name, "derive"), str(error))
        else:
            if not table.num_rows:
                self.report(("sources", name, "path"), "the newest file has a header and no rows", warning=not whole)
                return
            self.excluded(name, source)
            for guess in profile.nearly_typed(table, declared=getattr(source, "types", {})):
                self.report(("sources", name), guess.message, warning=True)
            self._newest[name] = table, whole

    def excluded(self, name: str, source: Source) -> None:
        """Names under `exclude` that leave nothing out: neither the earliest nor the newest file has such a column."""
        from include.ingestion import sources

        unseen = list(getattr(source, "exclude", ()))
        if not unseen:
            return
        whole = source.model_copy(update={"exclude": (), "derive": {}})
        present: list[str] = []
        for columns in (sources.columns_of, lambda all_columns: sources.newest_rows(all_columns)[0].column_names):
            try:
                present += columns(whole)
            except (sources.SourceError, OSError):
                return  # what makes the file unreadable may be a reason to exclude the column
            unseen = [column for column in unseen if column not in present]
            if not unseen:
                return
        for column in unseen:
            hint = did_you_mean(column, present)
            self.report(("sources", name, "exclude"), f"no file has a column {column!r}{hint}", warning=True)

    def suite(self, name: str, source: Source) -> None:
        """As before; then Great Expectations loads it, which knows every expectation and its arguments."""
        from include.ingestion import suites

        known = len(self.findings)
        super().suite(name, source)
        if len(self.findings) == known:
            try:
                suites.load(suites.path_of(self._suites, name, source.suite))
            except suites.SuiteError as error:
                self.report(("sources", name, "suite"), str(error))

    def rows(self, name: str, entry: Model, feature_set: FeatureSet, time_column: str | None) -> None:
        """What a training on the newest rows would stop at, or warn of."""
        from include.training.preparation import outlook

        if entry.source not in self._newest:
            return
        table, whole = self._newest[entry.source]
        found = outlook.foresee(name, entry, feature_set, table, time_column=time_column, whole=whole)
        for prospect in found:
            self.report(("models", name, *prospect.key.split(".")), prospect.text, warning=not prospect.certain)


def _not_a_time(column: str, columns: dict[str, ColumnType]) -> str:
    if column not in columns:
        return f"the source has no column {column!r}{did_you_mean(column, columns)}"
    return f"{column!r} is {columns[column]}, not a timestamp or date; set its type in the source's `types`"


def _unfit(entry: Model, kind: ColumnType) -> str | None:
    if entry.task == "regression" and kind not in ("float", "int"):
        return f"a regression predicts a number, but {entry.target!r} is {kind}; is the task binary or multiclass?"
    if entry.task != "regression" and kind in ("timestamp", "date"):
        return f"{entry.task} predicts a class, but {entry.target!r} is a {kind}"
    return None
