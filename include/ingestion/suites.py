"""Suites: one JSON file of Great Expectations' own form per source, edited by hand.

What happens when an expectation fails is decided by its `severity` and by its family, which follows from Great
Expectations' class (include/ingestion/expectations/):

    severity  an expectation about rows (a MapExpectation)     any other (columns, types, volume, freshness, shares)
    critical  the partition is refused                         the partition is refused
    warning   rows that break it go to quarantine, up to the   noted; lowers the quality score
              source's quarantine_share; above, as critical
    info      noted; lowers the quality score                  noted; lowers the quality score

`description` is the reason that a quarantined row carries. A value may be `{"$PARAMETER": "…"}`, an expression
over `usual_rows`, and for sources with time `day_start`, `day_end` and `due` (see `judgement.parameters`).

Great Expectations takes seconds to import: only `load` does.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from include.ingestion.expectations import Rule, family_of
from include.ingestion.proposal import propose_suite
from include.text import did_you_mean

__all__ = ["Rule", "Suite", "SuiteError", "check", "load", "parse", "path_of", "propose_suite", "rules"]

SEVERITIES = ("critical", "warning", "info")
_COLUMN_SET = "expect_table_columns_to_match_set"


class SuiteError(ValueError):
    """A suite is missing or wrong; the message names the file, the expectation and the remedy."""


@dataclass(frozen=True)
class Suite:
    """A checked suite, and Great Expectations' own objects, ready to run."""

    name: str
    rules: tuple[Rule, ...]
    expectations: Mapping[str, Any]
    """Great Expectations' objects by rule id."""

    @property
    def column_set(self) -> frozenset[str] | None:
        """The columns that a partition has, where the suite says so."""
        sets = [rule.kwargs.get("column_set") or () for rule in self.rules if rule.type == _COLUMN_SET]
        return frozenset().union(*sets) if sets else None


def path_of(suites: Path, source_name: str, suite: str | None) -> Path:
    """Where the suite of a source lies."""
    return suites / f"{suite or source_name}.json"


def rules(path: Path) -> tuple[Rule, ...]:
    """Read a suite file without Great Expectations.

    Raises:
        SuiteError: it is missing, no JSON, or an expectation lacks a type.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError as error:
        raise SuiteError(
            f"{path} is missing: a source without a suite is not ingested. Run `mlops suite {path.stem}`"
            " to have one proposed from the data, read it, and edit it"
        ) from error
    except ValueError as error:
        raise SuiteError(f"{path}: not valid JSON: {error}") from error
    return _rules(path, data)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON; leave the bound out")


def _rules(path: Path, data: Any) -> tuple[Rule, ...]:
    name = path.stem
    listed = data.get("expectations") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not listed:
        raise SuiteError(f'{path}: write {{"name": "{name}", "expectations": […]}} with at least one expectation')
    return tuple(_rule(path, index, entry) for index, entry in enumerate(listed))


def _rule(path: Path, index: int, entry: Any) -> Rule:
    where = f"{path}: expectation {index + 1}"
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise SuiteError(
            f'{where}: write {{"type": "expect_…", "kwargs": {{…}}, "severity": "critical | warning | info"}}'
        )
    where += f" ({entry['type']})"
    if unknown := set(entry) - {"type", "kwargs", "severity", "description", "meta", "notes", "id"}:
        raise SuiteError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    severity = entry.get("severity", "critical")
    if severity not in SEVERITIES:
        raise SuiteError(f"{where}: severity is one of {', '.join(SEVERITIES)}, not {severity!r}")
    kwargs = entry.get("kwargs", {})
    if not isinstance(kwargs, dict):
        raise SuiteError(f"{where}: kwargs is a mapping, not {kwargs!r}")
    rule_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{path.stem}/{index}"))
    return Rule(rule_id, entry["type"], kwargs, severity, entry.get("description"))


def check(path: Path, columns: Collection[str]) -> list[str]:
    """What is wrong with a suite file for a source with these columns, a line each; without Great Expectations."""
    try:
        found = rules(path)
    except SuiteError as error:
        return [str(error)]
    mistakes = []
    for index, rule in enumerate(found):
        named = (*rule.columns, *(rule.kwargs.get("column_set") or ()))
        for column in dict.fromkeys(name for name in named if name not in columns):
            hint = did_you_mean(column, columns)
            mistakes.append(f"{path}: expectation {index + 1} ({rule.type}): the source has no column {column!r}{hint}")
    return mistakes


def load(path: Path) -> Suite:
    """Read a suite file and build Great Expectations' objects.

    Raises:
        SuiteError: it is missing, or Great Expectations does not know an expectation or its arguments.
    """
    return _built(path, rules(path))


def parse(path: Path, data: Mapping[str, Any]) -> Suite:
    """As `load`, of a suite that is not yet written to `path`."""
    return _built(path, _rules(path, data))


def _built(path: Path, found: tuple[Rule, ...]) -> Suite:
    from great_expectations.core.expectation_suite import ExpectationSuite
    from great_expectations.expectations import core

    known = [kind.expectation_type for name, kind in vars(core).items() if name.startswith("Expect")]
    built = {}
    for index, rule in enumerate(found):
        where = f"{path}: expectation {index + 1} ({rule.type})"
        if rule.type not in known:
            raise SuiteError(f"{where}: Great Expectations does not know it{did_you_mean(rule.type, known)}")
        entry = {"type": rule.type, "kwargs": _understood(rule.kwargs), "severity": rule.severity, "id": rule.id}
        if rule.description:
            entry["description"] = rule.description
        try:
            (built[rule.id],) = ExpectationSuite(name=path.stem, expectations=[entry]).expectations
        except Exception as error:  # whatever it is, it is the file's mistake, and named so
            raise SuiteError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    judged = tuple(replace(rule, family=family_of(type(built[rule.id]))) for rule in found)
    return Suite(path.stem, judged, built)


def _understood(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A type list in which `datetime64` means any resolution, as it does in `expect_column_values_to_be_of_type`."""
    listed = kwargs.get("type_list")
    if not isinstance(listed, list) or not any(str(name).startswith("datetime64") for name in listed):
        return dict(kwargs)
    return {**kwargs, "type_list": [*listed, *(f"datetime64[{unit}]" for unit in ("s", "ms", "us", "ns"))]}
