"""What can be known to be wrong before anything runs, in about a second: `mlops check`, first in every DAG.

params.yaml itself; each source's columns, formulas and suite; each model's target, features and estimators. It reads at
most the head of a source, computes nothing, and needs neither a database nor a service.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from include import settings
from include.settings import ColumnType, Lines, Model, Params, ParamsError, Source


@dataclass(frozen=True)
class Finding:
    """One mistake: where it stands, and what to do about it."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.message}"


def check(params_path: Path | str, *, root: Path = settings.ROOT, suites: Path | None = None) -> list[Finding]:
    """All mistakes, in the order of the file; an empty list when there is none.

    Args:
        params_path: params.yaml.
        root: The repository, which holds include/.
        suites: The folder of the Great Expectations suites; default: the repository's.
    """
    path = Path(params_path)
    try:
        params = settings.load_params(path)
    except ParamsError as error:
        return [_parsed(line, path.name) for line in str(error).splitlines()]
    checker = _Checker(path.name, Lines(path.read_text(encoding="utf-8")), root, suites or default_suites(root))
    for name, source in params.sources.items():
        checker.source(name, source)
    for name in params.models:
        checker.model(name, params)
    return sorted(checker.findings, key=lambda finding: finding.line)


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

    def say(self, key: tuple[str, ...], message: str) -> None:
        self.findings.append(Finding(self._file, self._lines.of(*key), ".".join(key), " ".join(message.split())))

    def source(self, name: str, source: Source) -> None:
        from include.formulas import FormulaError
        from include.ingestion import sources

        self.columns[name] = None
        try:
            self.columns[name] = columns = sources.columns_of(source)
        except FormulaError as error:
            named = re.match(r"^derive\.(\w+): (.*)$", str(error), re.DOTALL)
            blamed = named[1] if named else next((c for c, t in source.derive.items() if repr(t) in str(error)), None)
            self.say(("sources", name, "derive", *([blamed] if blamed else [])), named[2] if named else str(error))
        except (sources.SourceError, OSError) as error:
            self.say(("sources", name, "path" if source.type == "files" else "type"), str(error))
        else:
            if source.time_column and columns.get(source.time_column) not in ("timestamp", "date"):
                self.say(("sources", name, "time_column"), _not_a_time(source.time_column, columns))
        self.suite(name, source)

    def suite(self, name: str, source: Source) -> None:
        suite = source.suite or name
        path = self._suites / f"{suite}.json"
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = [p.stem for p in self._suites.glob("*.json")] if self._suites.is_dir() else []
            hint = settings.did_you_mean(suite, known) if source.suite else ""
            self.say(
                ("sources", name, "suite"), f"there is no suite {path}{hint or f'; `mlops suite {name}` proposes one'}"
            )
        except ValueError as error:
            self.say(("sources", name, "suite"), f"{path}: not valid JSON: {error}")

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
                known = settings.did_you_mean(column, columns) or f"; it has {', '.join(columns)}"
                self.say(("models", name, key), f"the source {entry.source!r} has no column {column!r}{known}")
        if missing:
            return
        if time_column and columns.get(time_column) not in ("timestamp", "date"):
            if entry.time_column:
                self.say(("models", name, "time_column"), _not_a_time(time_column, columns))
            return
        if problem := _unfit(entry, columns[entry.target]):
            self.say(("models", name, "target"), problem)
        self.features(name, entry, columns, time_column, params.sources[entry.source].derive)

    def features(
        self,
        name: str,
        entry: Model,
        columns: dict[str, ColumnType],
        time_column: str | None,
        derive: dict[str, str],
    ) -> None:
        from include.features.feature_set import FeatureError, compile_features

        try:
            feature_set = compile_features(
                entry.features,
                source_columns=columns,
                target=entry.target,
                entity=entry.entity,
                time_column=time_column,
                root=self._root,
                derive=derive,
            )
        except FeatureError as error:
            found = re.match(r"^([a-z_]+(?:\.\w+)*): (.*)$", str(error), re.DOTALL)
            key, message = (found[1], found[2]) if found else ("features.definition", str(error))
            self.say(("models", name, *key.split(".")), message)
        else:
            self.serving(name, entry, feature_set.inputs)

    def serving(self, name: str, entry: Model, inputs: dict[str, ColumnType]) -> None:
        """The policies, units and logged columns must be of inputs: one that is misspelt would protect nothing."""
        where, serving = ("models", name, "serving"), entry.serving
        logged = () if isinstance(serving.log.inputs, str) else serving.log.inputs
        named: list[tuple[tuple[str, ...], str]] = [((*where, "fields", field), field) for field in serving.fields]
        named += [((*where, "units", field), field) for field in serving.units if field != entry.target]
        named += [((*where, "log", "inputs", str(n)), field) for n, field in enumerate(logged)]
        for key, field in named:
            if field not in inputs:
                known = settings.did_you_mean(field, inputs) or f"; there are {', '.join(inputs)}"
                self.say(key, f"the model has no input {field!r}{known}")
        for field, policy in serving.fields.items():
            kind = inputs.get(field, "string")
            if policy.out_of_range and kind not in ("float", "int") and field in inputs:
                self.say((*where, "fields", field, "out_of_range"), f"{field!r} is {kind}, which has no range")
            if policy.unknown_category and kind in ("timestamp", "date", "bool"):
                self.say((*where, "fields", field, "unknown_category"), f"{field!r} is {kind}, which has no categories")

    def estimators(self, name: str, entry: Model) -> None:
        from include.training import estimators

        for estimator, space in entry.estimators.items():
            try:
                estimators.check(estimator, space, entry.task)
            except estimators.EstimatorError as error:
                for line in str(error).splitlines():
                    key, _, message = line.partition(": ")
                    self.say(("models", name, "estimators", *key.split(".")), message)


def _not_a_time(column: str, columns: dict[str, ColumnType]) -> str:
    if column not in columns:
        return f"the source has no column {column!r}{settings.did_you_mean(column, columns)}"
    return f"{column!r} is {columns[column]}, not a timestamp or date; set its type in the source's `types`"


def _unfit(entry: Model, kind: ColumnType) -> str | None:
    if entry.task == "regression" and kind not in ("float", "int"):
        return f"a regression predicts a number, but {entry.target!r} is {kind}; is the task binary or multiclass?"
    if entry.task != "regression" and kind in ("timestamp", "date"):
        return f"{entry.task} predicts a class, but {entry.target!r} is a {kind}"
    return None
