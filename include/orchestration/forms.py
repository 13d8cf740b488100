"""The names in a run's form are checked like its values: Airflow checks values, and takes a name that no field has.

Twice: by Airflow's API before there is a run (plugins/orchestration), and before each task of every DAG, for runs that
come by other ways (`airflow dags trigger`, `airflow dags test`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from include.text import did_you_mean


def refusal(dag_id: str, conf: object, fields: Iterable[str]) -> str | None:
    """Why a run must not begin with this configuration, or None.

    Args:
        dag_id: The DAG, for the message.
        conf: What the run was given, if anything.
        fields: The names of the form's fields.
    """
    known = list(fields)
    if not conf:
        return None
    if not isinstance(conf, Mapping):
        return f"{dag_id}: the form's fields are given by name, as {{name: value}}, not as {type(conf).__name__}"
    unknown = [str(name) for name in conf if name not in known]
    if not unknown:
        return None
    there = f"it has {', '.join(known)}" if known else "it has no form"
    hints = [did_you_mean(name.replace("-", "_"), known) for name in unknown]
    lines = [
        f"{name!r} is no field of {dag_id}{hint or f'; {there}'}" for name, hint in zip(unknown, hints, strict=True)
    ]
    return f"nothing was run: {'; '.join(lines)}"


def whole_numbers(values: dict[str, Any], schemas: Mapping[str, Mapping[str, Any]]) -> None:
    """Make 3.0, which is a whole number by JSON's rules, one by Python's, where a field takes whole numbers only."""
    for name, value in values.items():
        kinds = schemas.get(name, {}).get("type", ())
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds:
            values[name] = int(value)
