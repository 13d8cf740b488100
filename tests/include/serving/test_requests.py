"""What a client sends becomes columns, or a refusal that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.serving.requests import Refused, Schema

INPUTS = [
    {"name": "mean radius", "type": "float", "required": True},
    {"name": "count", "type": "int", "required": True},
    {"name": "flag", "type": "bool", "required": False},
    {"name": "vendor", "type": "string", "required": True},
    {"name": "note", "type": "string", "required": False},
    {"name": "at", "type": "timestamp", "required": True},
    {"name": "day", "type": "date", "required": False},
]
ROW: dict[str, Any] = {"mean radius": 1.5, "count": 2, "vendor": "a", "at": "2018-01-31T08:30:00"}
SCHEMA = Schema(INPUTS, max_batch=5)


def test_a_row_becomes_columns_of_one() -> None:
    columns = SCHEMA.one(json.dumps({**ROW, "flag": True, "day": "2018-02-01"}).encode())
    assert set(columns) == {entry["name"] for entry in INPUTS}
    assert {name: column.dtype.kind for name, column in columns.items()} == {
        "mean radius": "f", "count": "f", "flag": "f", "vendor": "O", "note": "O", "at": "M", "day": "M",
    }  # fmt: skip
    assert columns["mean radius"].tolist() == [1.5]
    assert columns["flag"].tolist() == [1.0]
    assert columns["note"].tolist() == [None]
    assert columns["at"][0] == np.datetime64("2018-01-31T08:30:00")
    assert columns["day"].dtype == "datetime64[us]"


def test_a_batch_becomes_columns_with_missing_values() -> None:
    rows = [ROW, {**ROW, "flag": None, "day": None, "note": "x"}, {**ROW, "flag": False, "count": 3.0}]
    columns = SCHEMA.many(json.dumps({"rows": rows}).encode())
    assert np.isnan(columns["flag"][:2]).all()
    assert columns["flag"][2] == 0
    assert columns["note"].tolist() == [None, "x", None]
    assert np.isnat(columns["day"]).all()
    assert columns["count"].tolist() == [2, 2, 3]


def test_a_time_with_a_zone_becomes_utc() -> None:
    columns = SCHEMA.one(json.dumps({**ROW, "at": "2018-01-31T08:30:00+02:00"}).encode())
    assert columns["at"][0] == np.datetime64("2018-01-31T06:30:00")


WRONG: list[tuple[str, bytes, int, str, str | None]] = [
    ("empty body", b"", 400, "malformed_json", None),
    ("cut off", b'{"mean radius": 1.5, "cou', 400, "malformed_json", None),
    ("not UTF-8", b'{"vendor": "\xff"}', 400, "malformed_json", None),
    ("UTF-16", json.dumps(ROW).encode("utf-16"), 400, "malformed_json", None),
    ("deep", b"[" * 100_000, 400, "too_deep", None),
    ("a deep field", b'{"vendor": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "too_deep", None),
    ("a list", b"[1]", 422, "wrong_type", None),
    ("null", b"null", 422, "wrong_type", None),
    ("a number", b"1", 422, "wrong_type", None),
]
FIELDS: list[tuple[str, Any, str, str]] = [
    ("a number as a string", {"mean radius": "1.5"}, "wrong_type", "mean radius"),
    ("true as a number", {"mean radius": True}, "wrong_type", "mean radius"),
    ("a list as a number", {"mean radius": [1]}, "wrong_type", "mean radius"),
    ("null where required", {"mean radius": None}, "missing", "mean radius"),
    ("NaN", {"mean radius": float("nan")}, "not_finite", "mean radius"),
    ("Infinity", {"mean radius": float("-inf")}, "not_finite", "mean radius"),
    ("1e308", {"mean radius": 1e308}, "out_of_range", "mean radius"),
    ("a huge whole number", {"count": 10**400}, "not_finite", "count"),
    ("a broken whole number", {"count": 2.5}, "wrong_type", "count"),
    ("a number as a string's value", {"vendor": 3}, "wrong_type", "vendor"),
    ("a lone surrogate", {"vendor": "\ud800"}, "wrong_type", "vendor"),
    ("1 as true", {"flag": 1}, "wrong_type", "flag"),
    ("no time", {"at": "yesterday"}, "wrong_type", "at"),
    ("a number as a time", {"at": 1517387400}, "wrong_type", "at"),
    ("a time before the year 1", {"at": "0001-01-01T00:00:00+14:00"}, "out_of_range", "at"),
    ("no such day", {"day": "2018-02-30"}, "wrong_type", "day"),
    ("an extra field", {"counts": 1}, "unknown_field", "counts"),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_body_that_is_no_row_is_refused(body: bytes, status: int, code: str, field: str | None) -> None:
    """Promise 37."""
    for parse in (SCHEMA.one, SCHEMA.many):
        with pytest.raises(Refused) as refused:
            parse(body)
        assert (refused.value.status, refused.value.code, refused.value.field) == (status, code, field)


@pytest.mark.parametrize(("change", "code", "field"), [f[1:] for f in FIELDS], ids=[f[0] for f in FIELDS])
def test_a_wrong_field_is_named_by_its_path(change: dict[str, Any], code: str, field: str) -> None:
    """Promise 37."""
    with pytest.raises(Refused) as refused:
        SCHEMA.one(json.dumps({**ROW, **change}).encode())
    assert (refused.value.status, refused.value.code, refused.value.field) == (422, code, field)
    with pytest.raises(Refused) as refused:
        SCHEMA.many(json.dumps({"rows": [ROW, ROW, {**ROW, **change}]}).encode())
    assert (refused.value.status, refused.value.code, refused.value.field) == (422, code, f"rows[2].{field}")


@pytest.mark.parametrize("name", list(ROW))
def test_a_missing_field_is_named(name: str) -> None:
    """Promise 37."""
    with pytest.raises(Refused) as refused:
        SCHEMA.many(json.dumps({"rows": [ROW, {k: v for k, v in ROW.items() if k != name}]}).encode())
    assert (refused.value.code, refused.value.field) == ("missing", f"rows[1].{name}")


def test_a_misspelt_field_gets_a_hint() -> None:
    with pytest.raises(Refused, match=r"vendor is missing.*'vendro'"):
        SCHEMA.one(json.dumps({"vendro" if k == "vendor" else k: v for k, v in ROW.items()}).encode())
    with pytest.raises(Refused, match="did you mean note"):
        SCHEMA.one(json.dumps({**ROW, "notes": "x"}).encode())


@pytest.mark.parametrize(
    ("document", "status", "code", "field"),
    [
        ({"rows": []}, 422, "empty_batch", "rows"),
        ({"rows": [ROW] * 6}, 413, "too_many_rows", "rows"),
        ({"rows": [{}] * 6}, 413, "too_many_rows", "rows"),
        ({"rows": ROW}, 422, "wrong_type", "rows"),
        ({"rows": [ROW, 3]}, 422, "wrong_type", "rows[1]"),
        ({"rows": [ROW], "more": 1}, 422, "unknown_field", "more"),
        ({}, 422, "missing", "rows"),
        (ROW, 422, "missing", "rows"),
    ],
)
def test_a_batch_of_the_wrong_shape_is_refused(document: Any, status: int, code: str, field: str) -> None:
    """Promises 37 and 38."""
    with pytest.raises(Refused) as refused:
        SCHEMA.many(json.dumps(document).encode())
    assert (refused.value.status, refused.value.code, refused.value.field) == (status, code, field)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "rows", "x"]) | st.text(), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(JSON.map(lambda v: json.dumps(v).encode()), st.binary(max_size=60)))
def test_whatever_is_sent_is_columns_or_a_refusal(body: bytes) -> None:
    """Promise 37, by hypothesis: no other exception leaves the parser."""
    for parse in (SCHEMA.one, SCHEMA.many):
        refused = refusal(parse, body)
        assert refused is None or (400 <= refused.status < 500 and refused.code and refused.message)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from([entry["name"] for entry in INPUTS]), JSON))
def test_whatever_a_field_holds_is_columns_or_a_refusal_that_names_a_field(fields: dict[str, Any]) -> None:
    """Promise 37, by hypothesis."""
    refused = refusal(SCHEMA.many, json.dumps({"rows": [{**ROW, **fields}]}).encode())
    assert refused is None or refused.status == 400 or (refused.status == 422 and refused.field is not None)


def refusal(parse: Callable[[bytes], Any], body: bytes) -> Refused | None:
    try:
        parse(body)
    except Refused as refused:
        return refused
    return None
