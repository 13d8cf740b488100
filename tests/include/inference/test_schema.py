"""What a client sends becomes columns, or a refusal that names the field."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.inference import errors
from include.inference.errors import Refused
from include.inference.schema import MOST_WARNINGS, Checked, Schema

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


def row_of(schema: Schema, row: Any) -> Checked:
    """One row as the hot path takes it."""
    body = row if isinstance(row, bytes) else json.dumps(row).encode()
    return schema.columns([schema.row(body)], batch=False)


def rows_of(schema: Schema, rows: list[Any]) -> Checked:
    return schema.many(json.dumps({"rows": rows}).encode())


def columns_of(schema: Schema, rows: list[dict[str, Any]]) -> Checked:
    """The same rows, sent as columns."""
    names = dict.fromkeys(name for row in rows for name in row)
    return schema.many(json.dumps({"columns": {name: [row.get(name) for row in rows] for name in names}}).encode())


def refused(call: Callable[..., Any], *arguments: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value


def equal(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(
        values.dtype == two[name].dtype and np.array_equal(values, two[name], equal_nan=values.dtype.kind != "O")
        for name, values in one.items()
    )


def test_a_row_becomes_columns_of_one() -> None:
    columns = row_of(SCHEMA, {**ROW, "flag": True, "day": "2018-02-01"}).columns
    assert set(columns) == {entry["name"] for entry in INPUTS}
    assert {name: column.dtype.kind for name, column in columns.items()} == {
        "mean radius": "f", "count": "f", "flag": "f", "vendor": "O", "note": "O", "at": "M", "day": "M",
    }  # fmt: skip
    assert columns["mean radius"].tolist() == [1.5]
    assert columns["flag"].tolist() == [1.0]
    assert columns["note"].tolist() == [None]
    assert columns["at"][0] == np.datetime64("2018-01-31T08:30:00")
    assert columns["day"].dtype == columns["at"].dtype == "datetime64[us]"
    assert columns["day"][0] == np.datetime64("2018-02-01")


def test_a_batch_becomes_columns_with_missing_values() -> None:
    rows = [ROW, {**ROW, "flag": None, "day": None, "note": "x"}, {**ROW, "flag": False, "count": 3.0}]
    for checked in (rows_of(SCHEMA, rows), columns_of(SCHEMA, rows)):
        columns = checked.columns
        assert checked.count == 3
        assert np.isnan(columns["flag"][:2]).all()
        assert columns["flag"][2] == 0
        assert columns["note"].tolist() == [None, "x", None]
        assert np.isnat(columns["day"]).all()
        assert columns["count"].tolist() == [2, 2, 3]


def test_rows_of_several_requests_are_checked_together_as_each_alone() -> None:
    bodies = [json.dumps({**ROW, "count": n, "note": None if n % 2 else "x"}).encode() for n in range(9)]
    together = SCHEMA.columns([SCHEMA.row(body) for body in bodies], batch=False).columns
    alone = [row_of(SCHEMA, body).columns for body in bodies]
    assert equal(together, {name: np.concatenate([columns[name] for columns in alone]) for name in together})


@pytest.mark.parametrize(
    ("sent", "held"),
    [
        ("2018-01-31T08:30:00", "2018-01-31T08:30:00"),
        ("2018-01-31T08:30:00Z", "2018-01-31T08:30:00"),
        ("2018-01-31T08:30:00+02:00", "2018-01-31T06:30:00"),
        ("2018-01-31T00:30:00.000001-09:30", "2018-01-31T10:00:00.000001"),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999"),
        ("1969-12-31T23:59:59.999999", "1969-12-31T23:59:59.999999"),
    ],
)
def test_a_time_is_held_to_the_microsecond_in_utc(sent: str, held: str) -> None:
    for checked in (row_of(SCHEMA, {**ROW, "at": sent}), columns_of(SCHEMA, [{**ROW, "at": sent}])):
        assert checked.columns["at"][0] == np.datetime64(held)


WRONG: list[tuple[str, bytes, int, str, str | None]] = [
    ("empty body", b"", 400, "malformed_json", None),
    ("cut off", b'{"mean radius": 1.5, "cou', 400, "malformed_json", None),
    ("not UTF-8", b'{"vendor": "\xff"}', 400, "malformed_json", None),
    ("half a character in UTF-8", b'{"vendor": "a\xed\xa0\x80"}', 400, "malformed_json", None),
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
    ("a null character", {"vendor": "a\0b"}, "wrong_type", "vendor"),
    ("a null character where a null is allowed", {"note": "\0"}, "wrong_type", "note"),
    ("1 as true", {"flag": 1}, "wrong_type", "flag"),
    ("no time", {"at": "yesterday"}, "wrong_type", "at"),
    ("a number as a time", {"at": 1517387400}, "wrong_type", "at"),
    ("a time before the year 1", {"at": "0001-01-01T00:00:00+14:00"}, "out_of_range", "at"),
    ("no such day", {"day": "2018-02-30"}, "wrong_type", "day"),
    ("a time after the year 9999", {"at": "9999-12-31T23:59:59-01:00"}, "out_of_range", "at"),
    ("an extra field", {"counts": 1}, "unknown_field", "counts"),
    ("an extra field of half a character", {"\ud800": 1}, "unknown_field", "?"),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_body_that_is_no_row_is_refused(body: bytes, status: int, code: str, field: str | None) -> None:
    """Promise 37."""
    for parse in (SCHEMA.row, SCHEMA.many):
        found = refused(parse, body)
        assert (found.status, found.code, found.field) == (status, code, field)


@pytest.mark.parametrize(("change", "code", "field"), [f[1:] for f in FIELDS], ids=[f[0] for f in FIELDS])
def test_a_wrong_field_is_named_by_its_path(change: dict[str, Any], code: str, field: str) -> None:
    """Promise 37."""
    found = refused(row_of, SCHEMA, {**ROW, **change})
    assert (found.status, found.code, found.field) == (422, code, field)
    found = refused(rows_of, SCHEMA, [ROW, ROW, {**ROW, **change}])
    prefix = "" if field == "?" else "rows[2]."
    assert (found.status, found.code) == (422, code)
    assert found.field in (f"rows[2].{field}", prefix + field)
    found = refused(columns_of, SCHEMA, [ROW, ROW, {**ROW, **change}])
    assert (found.status, found.code) == (422, code)
    assert found.field == (f"columns.{field}" if code == "unknown_field" else f"columns.{field}[2]")


@pytest.mark.parametrize("name", list(ROW))
def test_a_missing_field_is_named(name: str) -> None:
    """Promise 37."""
    without = {k: v for k, v in ROW.items() if k != name}
    found = refused(rows_of, SCHEMA, [ROW, without])
    assert (found.code, found.field) == ("missing", f"rows[1].{name}")
    found = refused(columns_of, SCHEMA, [without])
    assert (found.code, found.field) == ("missing", f"columns.{name}")


def test_a_misspelt_field_gets_a_hint() -> None:
    with pytest.raises(Refused, match=r"vendor is missing.*'vendro'"):
        row_of(SCHEMA, {"vendro" if k == "vendor" else k: v for k, v in ROW.items()})
    with pytest.raises(Refused, match="did you mean 'note'"):
        row_of(SCHEMA, {**ROW, "notes": "x"})
    with pytest.raises(Refused, match=r"columns\.notes is not an input of this model; did you mean 'note'\?"):
        columns_of(SCHEMA, [{**ROW, "notes": "x"}])


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
        ({"rows": [ROW], "columns": {}}, 422, "ambiguous", "columns"),
        ({"columns": []}, 422, "wrong_type", "columns"),
        ({"columns": {}}, 422, "missing", "columns.count"),
        ({"columns": {name: [] for name in ROW}}, 422, "empty_batch", "columns"),
        ({"columns": {name: [value] * 6 for name, value in ROW.items()}}, 413, "too_many_rows", "columns.count"),
        ({"columns": {**{k: [v] for k, v in ROW.items()}, "vendor": "a"}}, 422, "wrong_type", "columns.vendor"),
        ({"columns": {**{k: [v] for k, v in ROW.items()}, "note": ["x", "y"]}}, 422, "wrong_length", "columns.note"),
    ],
)
def test_a_batch_of_the_wrong_shape_is_refused(document: Any, status: int, code: str, field: str) -> None:
    """Promises 37 and 38."""
    found = refused(SCHEMA.many, json.dumps(document).encode())
    assert (found.status, found.code, found.field) == (status, code, field)


def test_columns_of_unequal_length_are_told_with_both_lengths() -> None:
    columns = {**{name: [value] * 3 for name, value in ROW.items()}, "vendor": ["a"]}
    with pytest.raises(Refused, match=r"columns\.vendor has 1 values and columns\.count 3; each row needs one"):
        SCHEMA.many(json.dumps({"columns": columns}).encode())


# ------------------------------------------------------------------------------------------------ policies


def field(name: str, kind: str, **policies: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "required": True, "minimum": 0, "maximum": 10, **policies}


POLICIES = [
    field("warned", "float", unit="miles"),
    field("clipped", "float", out_of_range="clip"),
    field("bounded", "int", out_of_range="error"),
    field("guessed", "int", missing="impute", out_of_range="clip"),
]
INSIDE = {"warned": 1, "clipped": 2, "bounded": 3, "guessed": 4}


def test_a_number_beyond_what_training_saw_follows_its_field_s_policy() -> None:
    schema = Schema(POLICIES, max_batch=10)
    rows = [INSIDE, {**INSIDE, "warned": -1, "clipped": 99, "guessed": None}, {**INSIDE, "clipped": -99, "warned": 10}]
    for checked, where in ((rows_of(schema, rows), "rows[1].warned"), (columns_of(schema, rows), "columns.warned[1]")):
        assert checked.columns["clipped"].tolist() == [2, 10, 0]
        assert checked.columns["warned"].tolist() == [1, -1, 10]
        assert np.isnan(checked.columns["guessed"][1])
        assert checked.warnings is not None
        assert [[w.as_dict() for w in found] for found in checked.warnings] == [
            [],
            [{"code": "out_of_range", "field": where, "message": f"{where} is -1; training saw 0 to 10 miles"}],
            [],
        ]
    found = refused(rows_of, schema, [INSIDE, {**INSIDE, "bounded": 11, "warned": 11}])
    assert (found.status, found.code, found.field) == (422, "out_of_range", "rows[1].bounded")
    assert str(found) == "rows[1].bounded must lie between 0 and 10, as in training; it is 11"


def test_a_row_within_all_bounds_has_no_warnings() -> None:
    checked = row_of(Schema(POLICIES, max_batch=10), INSIDE)
    assert checked.warnings is None
    assert checked.received is checked.columns


def test_the_warnings_of_one_answer_are_limited_and_the_last_says_how_many_there_were() -> None:
    schema = Schema([field("a", "float"), field("b", "float")], max_batch=2000)
    checked = rows_of(schema, [{"a": 11, "b": 12}] * 2000)
    assert checked.warnings is not None
    flat = [warning for found in checked.warnings for warning in found]
    assert len(flat) == MOST_WARNINGS + 1
    assert flat[-1].field == "rows[500].a"
    assert flat[-1].message == "from rows[500].a on 3000 more values are outside of what training saw"


def test_an_unknown_category_is_refused_where_its_field_says_so() -> None:
    closed = {"unknown_category": "error", "missing": "impute"}
    inputs = [
        field("vendor", "string", **closed, categories=["acme", "zenith"]),
        field("zone", "int", **closed, categories=[1, 7]),
        field("open", "string", unknown_category="other", categories=["x"]),
    ]
    schema = Schema(inputs, max_batch=10)
    rows: list[dict[str, Any]] = [
        {"vendor": "acme", "zone": 7.0, "open": "new"},
        {"open": "x"},
        {"vendor": None, "zone": 1, "open": "y"},
    ]
    for checked in (rows_of(schema, rows), columns_of(schema, rows)):
        assert checked.unusual == {("unknown_category", "open"): 2}
        assert checked.columns["vendor"].tolist() == ["acme", None, None]
    found = refused(rows_of, schema, [*rows, {"vendor": "acne", "open": "x"}])
    assert (found.status, found.code, found.field) == (422, "unknown_category", "rows[3].vendor")
    assert str(found).endswith("is 'acne', which the model was not trained on; did you mean 'acme'?")
    found = refused(columns_of, schema, [rows[0], {**rows[0], "zone": 6}])
    assert (found.code, found.field) == ("unknown_category", "columns.zone[1]")
    found = refused(row_of, schema, {"vendor": "v" * 10_000, "open": "x"})
    assert len(found.message) < 200


VALUES = {
    "mean radius": ["1.5", "-2", "1e3"],
    "count": ["2", "7.0"],
    "flag": ["true", "false", "null"],
    "vendor": ['"a"', '""', '"\\"\\""', '"\\\\"', '"null"', '"\\u0041"'],
    "note": ['"n"', "null", '"a \\" : b"'],
    "at": ['"2018-01-31T08:30:00"'],
    "day": ['"2018-01-31"', "null"],
    "rider": ['"x"', "7", "null"],
}
ENTITY = Schema(INPUTS, max_batch=5, entity="rider")
SPARSE = [{**entry, "required": False} for entry in INPUTS]
LENIENT = Schema(SPARSE, max_batch=5, extra_field="ignore")


@st.composite
def written_rows(draw: st.DrawFn, names: tuple[str, ...] = tuple(VALUES)) -> list[tuple[str, str]]:
    """The members of a row in any order and spelling, those that must be there and some of the others."""
    taken = [name for name in names if name in ROW or draw(st.booleans())]
    return [(name, draw(st.sampled_from(VALUES[name]))) for name in draw(st.permutations(taken))]


def written(members: list[tuple[str, str]], draw: Any) -> bytes:
    def key(name: str) -> str:
        return f"\\u{ord(name[0]):04x}{name[1:]}" if draw(st.booleans()) else name

    gap = draw(st.sampled_from(["", " ", "\n  "]))
    return ("{" + ("," + gap).join(f'"{key(n)}"{gap}:{gap}{value}' for n, value in members) + "}").encode()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_name_that_is_given_twice_is_refused_wherever_and_however_it_is_written(data: st.DataObject) -> None:
    rows = data.draw(st.lists(written_rows(), min_size=1, max_size=4))
    bad = data.draw(st.integers(0, len(rows) - 1))
    name, _ = data.draw(st.sampled_from(rows[bad]))
    again = (name, data.draw(st.sampled_from(VALUES[name])))
    twice = [*rows]
    twice[bad] = [*rows[bad]]
    twice[bad].insert(data.draw(st.integers(0, len(rows[bad]))), again)
    for members, schema in ((rows, ENTITY), (rows, LENIENT)):
        ENTITY.many(b'{"rows":[%b]}' % b",".join(written(row, data.draw) for row in members))
        schema.row(written(members[bad], data.draw))
    for schema in (ENTITY, LENIENT):
        found = refused(schema.row, written(twice[bad], data.draw))
        assert (found.status, found.code, found.field) == (422, "duplicate_field", name)
        body = b'{"rows":[%b]}' % b",".join(written(row, data.draw) for row in twice)
        assert refused(schema.many, body).field == f"rows[{bad}].{name}"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"rows":[{}],"rows":[%b]}', "rows"),
        (b'{"rows":[%b,%b],"ro\\u0077s":[%b]}', "rows"),
        (
            b'{"columns":{"count":[1],"count":[2],"mean radius":[1],"vendor":["a"],"at":["2018-01-31T08:30:00"]}}',
            "count",
        ),
        (
            b'{"columns":{},"columns":{"count":[2],"mean radius":[1],"vendor":["a"],"at":["2018-01-31T08:30"]}}',
            "columns",
        ),
    ],
)
def test_a_name_of_the_body_itself_that_is_given_twice_is_refused(body: bytes, field: str) -> None:
    row = json.dumps(ROW).encode()
    found = refused(LENIENT.many, body.replace(b"%b", row))
    assert (found.code, found.field) == ("duplicate_field", field)


def test_columns_are_taken_as_long_as_none_is_given_twice() -> None:
    body = b'{"columns": {"co\\u0075nt": [1], "mean radius": [1], "vendor": ["\\"a"], "at": ["2018-01-31T08:30:00"]}}'
    assert SCHEMA.many(body).columns["vendor"].tolist() == ['"a']
    assert LENIENT.many(body[:-2] + b', "else": {"x": ["y"]}}}').count == 1
    assert refused(LENIENT.many, body[:-2] + b', "else": [], "else": []}}').field == "else"


EMPLOYED = {**field("work", "string", categories=[" Private", " State-gov", None]), "missing": "impute"}


def warned(checked: Checked) -> list[list[dict[str, str]]]:
    return [[warning.as_dict() for warning in found] for found in checked.warnings or []]


def test_a_text_that_training_did_not_see_is_answered_with_a_warning_and_what_may_have_been_meant() -> None:
    """Of a model from before texts were trimmed, whose categories begin with the blank of their CSV file."""
    schema = Schema([EMPLOYED, field("open", "string")], max_batch=10)
    said = "work is 'State-gov', which the model was not trained on; did you mean ' State-gov'?"
    found = row_of(schema, {"work": "State-gov", "open": "anything"})
    assert warned(found) == [[{"code": "unknown_category", "field": "work", "message": said}]]
    assert found.unusual == {("unknown_category", "work"): 1}
    assert found.columns["work"].tolist() == ["State-gov"]
    for known in (" State-gov", " Private", None):
        assert row_of(schema, {"work": known, "open": ""}).warnings is None
    rows = [{"work": text, "open": "x"} for text in (" Private", "PRIVATE ", "Privat", "Quarry", "")]
    for form, take in (("rows", rows_of), ("columns", columns_of)):
        checked = take(schema, rows)
        where = [w["field"] for found in warned(checked) for w in found]
        hints = [w["message"].partition("did you mean ")[2] for found in warned(checked) for w in found]
        assert where == [f"rows[{n}].work" if form == "rows" else f"columns.work[{n}]" for n in (1, 2, 3, 4)]
        assert hints == ["' Private'?", "' Private'?", "", ""]
        assert checked.unusual == {("unknown_category", "work"): 4}


def test_warnings_of_texts_and_numbers_stand_together_and_have_one_limit() -> None:
    inputs = [field("a", "float", minimum=0, maximum=1, out_of_range="warn"), {**EMPLOYED, "missing": "error"}]
    schema = Schema(inputs, max_batch=3 * MOST_WARNINGS)
    [both] = warned(row_of(schema, {"a": 5, "work": "x"}))
    assert [(w["code"], w["field"]) for w in both] == [("out_of_range", "a"), ("unknown_category", "work")]
    checked = rows_of(schema, [{"a": 0, "work": f"job {n}"} for n in range(MOST_WARNINGS + 500)])
    flat = [w for found in warned(checked) for w in found]
    assert len(flat) == MOST_WARNINGS + 1
    assert flat[-1]["message"] == f"from rows[{MOST_WARNINGS}].work on 500 more values are outside of what training saw"
    assert checked.unusual == {("unknown_category", "work"): MOST_WARNINGS + 500}


@pytest.mark.parametrize("policy", ["other", "error"])
def test_where_training_saw_trimmed_texts_requests_are_trimmed_too(policy: str) -> None:
    known = {"unknown_category": policy, "categories": ["Private", "State-gov"]}
    note = field("note", "string", trimmed=True)
    inputs = [field("work", "string", trimmed=True, **known), note, field("id", "string")]
    schema = Schema(inputs, max_batch=10, entity="who")
    row = {"work": " State-gov", "note": "\u00a0two  words\n", "id": " 7 ", "who": " me "}
    plain = {"work": "State-gov", "note": "two  words", "id": " 7 ", "who": " me "}
    ways: list[tuple[Callable[..., Any], Any]] = [
        (row_of, row), (rows_of, [plain, row]), (columns_of, [plain, row]),
    ]  # fmt: skip
    for take, sent in ways:
        checked = take(schema, sent)
        assert checked.warnings is None
        assert set(checked.columns["work"].tolist()) == {"State-gov"}
        assert set(checked.columns["note"].tolist()) == {"two  words"}
        assert set(checked.columns["id"].tolist()) == {" 7 "}
        assert set(checked.entities or ()) == {" me "}
        kept = [json.loads(line) for line in schema.inputs_json(checked, "all")]
        assert all(line == {name: plain[name] for name in ("work", "note", "id")} for line in kept)
    if policy == "error":
        assert refused(row_of, schema, {**row, "work": " Stat-gov"}).field == "work"


def test_an_older_manifest_does_not_say_that_texts_were_trimmed_so_they_are_not() -> None:
    schema = Schema([field("note", "string")], max_batch=1)
    assert row_of(schema, {"note": " x "}).columns["note"].tolist() == [" x "]


def test_an_entity_is_no_category_even_where_it_is_an_input() -> None:
    schema = Schema([{**EMPLOYED, "name": "who"}], max_batch=1, entity="who")
    assert row_of(schema, {"who": "somebody new"}).warnings is None


def test_a_field_may_be_demanded_though_training_missed_it_and_the_other_way_round() -> None:
    inputs = [
        {"name": "a", "type": "float", "required": False, "missing": "error"},
        {"name": "b", "type": "string", "required": True, "missing": "impute"},
        {"name": "c", "type": "timestamp", "required": True, "missing": "impute"},
    ]
    columns = row_of(Schema(inputs, max_batch=1), {"a": 1, "b": None}).columns
    assert columns["b"].tolist() == [None]
    assert np.isnat(columns["c"]).all()
    assert refused(row_of, Schema(inputs, max_batch=1), {"b": "x"}).field == "a"


def test_an_extra_field_is_passed_over_where_that_is_declared() -> None:
    schema = Schema(INPUTS, max_batch=5, extra_field="ignore")
    rows = [{**ROW, "extra": {"deep": [{}, {}, {}, {}, {}, {}]}, "\0": "\0"}] * 5
    assert equal(rows_of(schema, rows).columns, rows_of(SCHEMA, [ROW] * 5).columns)
    assert equal(columns_of(schema, rows).columns, rows_of(SCHEMA, [ROW] * 5).columns)
    assert row_of(schema, rows[0]).count == 1
    assert refused(row_of, schema, {**rows[0], "count": "x"}).field == "count"


def test_a_manifest_without_policies_is_served_by_the_defaults() -> None:
    schema = Schema.of({"inputs": INPUTS, "max_batch": 3})
    assert equal(row_of(schema, ROW).columns, row_of(SCHEMA, ROW).columns)
    assert refused(row_of, schema, {**ROW, "x": 1}).code == "unknown_field"
    ranged = Schema.of({"inputs": [{**INPUTS[0], "minimum": 0.0, "maximum": 1.0}], "max_batch": 3})
    assert row_of(ranged, {"mean radius": 2}).warnings is not None


def test_golden_rows_are_parsed_whatever_the_policies_say_and_however_many_they_are() -> None:
    closed = field("vendor", "string", unknown_category="error", categories=["a"])
    schema = Schema([*POLICIES, closed], max_batch=1)
    rows = [{**INSIDE, "bounded": 99, "clipped": 99, "vendor": "new"}] * 3
    columns = schema.unlimited(json.dumps({"rows": rows}).encode())
    assert columns["clipped"].tolist() == [99, 99, 99]
    assert schema.one(json.dumps(rows[0]).encode())["bounded"].tolist() == [99]


# ------------------------------------------------------------------------------------------------ entities

SUBJECTS = Schema(INPUTS, max_batch=5, entity="rider")


@pytest.mark.parametrize(
    ("sent", "entity"), [("abc", "abc"), (7, "7"), ("7", "7"), (None, None), (-(2**63), str(-(2**63)))]
)
def test_an_entity_is_taken_though_it_is_no_input(sent: Any, entity: str | None) -> None:
    body = json.dumps({**ROW, "rider": sent}).encode()
    assert SUBJECTS.entity_of(body) == entity
    row = SUBJECTS.row(body)
    assert SUBJECTS.entities([row, row]) == [entity, entity]
    assert SUBJECTS.columns([row], batch=False).entities == [entity]
    for batch in (rows_of(SUBJECTS, [ROW, {**ROW, "rider": sent}]), columns_of(SUBJECTS, [{**ROW, "rider": sent}])):
        assert batch.entities is not None
        assert batch.entities[-1] == entity
        assert "rider" not in batch.columns


@pytest.mark.parametrize("sent", [True, 1.5, 2**63, [], {}, "x" * 513, "a\0"])
def test_an_entity_that_the_log_could_not_keep_is_refused(sent: Any) -> None:
    found = refused(row_of, SUBJECTS, {**ROW, "rider": sent})
    assert (found.status, found.field) == (422, "rider")
    assert refused(rows_of, SUBJECTS, [ROW, {**ROW, "rider": sent}]).field == "rows[1].rider"
    assert refused(columns_of, SUBJECTS, [ROW, {**ROW, "rider": sent}]).field == "columns.rider[1]"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"rider": []}', b'{"rider": tru', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_row_has_no_entity(body: bytes) -> None:
    assert SUBJECTS.entity_of(body) is None


def test_an_entity_may_be_an_input() -> None:
    schema = Schema(INPUTS, max_batch=5, entity="count")
    body = json.dumps(ROW).encode()
    assert schema.entity_of(body) == "2"
    assert schema.entities([schema.row(body)]) == ["2"]
    assert columns_of(schema, [{**ROW, "count": 3.0}]).entities == ["3"]
    assert rows_of(schema, [ROW]).columns["count"].tolist() == [2]


def test_a_model_without_an_entity_has_none() -> None:
    assert SCHEMA.entity_of(json.dumps(ROW).encode()) is None
    assert SCHEMA.entities([SCHEMA.row(json.dumps(ROW).encode())]) is None
    assert row_of(SCHEMA, ROW).entities is None


# ------------------------------------------------------------------------------------------------ the log


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("logged", ["all", ("vendor", "count"), ("at",), ("gone", "day"), (), "none"])
def test_inputs_are_written_down_as_declared_whatever_form_they_came_in(count: int, logged: Any) -> None:
    schema = Schema(INPUTS, max_batch=50, entity="rider")
    rows = [
        {**ROW, "count": n, "flag": n % 2 == 0, "note": "ü\n\\", "day": "2018-02-01", "rider": n} for n in range(count)
    ]
    wanted = [
        {name: row[name] for name in row if name != "rider" and (logged == "all" or name in logged)} for row in rows
    ]
    decoded = [schema.row(json.dumps(row).encode()) for row in rows]
    for sent in (decoded, rows_of(schema, rows), columns_of(schema, rows)):
        written = schema.inputs_json(sent, logged)
        assert [json.loads(line) for line in written] == wanted
        assert not any(b"\n" in line for line in written)


def test_what_is_written_down_is_what_was_received_not_what_it_was_clipped_to() -> None:
    schema = Schema(POLICIES, max_batch=10)
    row = {**INSIDE, "clipped": 99, "guessed": None}
    for sent in (rows_of(schema, [row]), columns_of(schema, [row])):
        assert json.loads(schema.inputs_json(sent, "all")[0]) == row


def test_a_value_can_be_named_after_the_model_has_refused_it() -> None:
    assert row_of(SCHEMA, ROW).path(0, "vendor") == "vendor"
    assert row_of(SCHEMA, ROW).path(0) is None
    assert rows_of(SCHEMA, [ROW]).path(3, "vendor") == "rows[3].vendor"
    assert columns_of(SCHEMA, [ROW]).path(3, "vendor") == "columns.vendor[3]"


# ------------------------------------------------------------------------------------------------ size


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"rows": [' + b"{}," * 1_000_000 + b"{}]}", 413),
        (b'{"rows": [' + b"1," * 1_000_000 + b"1]}", 422),
        (b'{"rows": [[' + b"{}," * 1_000_000 + b"{}]]}", 422),
        (b'{"columns": {"mean radius": [' + b"1," * 1_000_000 + b"1]}}", 413),
        (b'{"columns": {"note": [' + b'"",' * 1_000_000 + b'""]}}', 413),
        (b'{"columns": {' + b'"note":[],' * 200_000 + b'"note":[]}}', 422),
        (b"[" * 3_000_000, 422),
    ],
)
def test_a_million_rows_are_refused_before_memory_grows(body: bytes, status: int) -> None:
    """Promise 38: without any of them having been made."""
    inputs = [
        {"name": "mean radius", "type": "float", "required": False},
        {"name": "note", "type": "string", "required": False},
    ]
    for schema in (Schema(inputs, max_batch=10_000), Schema(inputs, max_batch=10_000, extra_field="ignore")):
        tracemalloc.start()
        try:
            found = refused(schema.many, body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert found.status == status
        assert peak < 3 * len(body)


def test_a_large_batch_is_not_taken_for_too_many_rows_because_of_braces_in_its_texts() -> None:
    texts = [{**ROW, "vendor": '{"a": [{}, {}]}, \\"{' * 40}] * 5
    assert rows_of(SCHEMA, texts).count == 5
    assert columns_of(SCHEMA, texts).count == 5


def test_a_body_too_large_to_be_taken_apart_is_explained_in_the_decoder_s_words() -> None:
    long = "x" * errors.LOOKED_AT
    schema = Schema(INPUTS, max_batch=5, entity="rider")
    changes: list[tuple[dict[str, Any], str, str]] = [
        ({"count": "2"}, "wrong_type", "count"),
        ({"count": None}, "missing", "count"),
        ({"rows": 1}, "unknown_field", "rows"),
        ({"rider": "x" * 600}, "too_long", "rider"),
        ({"at": "now"}, "wrong_type", "at"),
    ]
    for change, code, path in changes:
        row = {**ROW, "vendor": long, **change}
        found = refused(row_of, schema, row)
        assert (found.status, found.code, found.field) == (422, code, path)
        found = refused(rows_of, schema, [ROW, row])
        assert (found.status, found.code, found.field) == (422, code, f"rows[1].{path}")
    found = refused(columns_of, schema, [ROW, {**ROW, "vendor": long}, {**ROW, "vendor": 3}])
    assert (found.code, found.field) == ("wrong_type", "columns.vendor[2]")
    assert refused(row_of, schema, json.dumps({**ROW, "vendor": long}).encode()[:-1]).status == 400


# ------------------------------------------------------------------------------------------------ hypothesis

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "rows", "x"]) | st.text(), inner)
    ),
    max_leaves=12,
)


STRICT = Schema([*INPUTS, *POLICIES], max_batch=5, extra_field="ignore", entity="vendor")


def refusal(parse: Callable[[bytes], Any], body: bytes) -> Refused | None:
    try:
        parse(body)
    except Refused as found:
        return found
    return None


@settings(max_examples=400, deadline=None)
@given(st.one_of(JSON.map(lambda v: json.dumps(v).encode()), st.binary(max_size=60)))
def test_whatever_is_sent_is_columns_or_a_refusal(body: bytes) -> None:
    """Promise 37, by hypothesis: no other exception leaves the parser, and every refusal can be written."""
    for schema in (SCHEMA, SUBJECTS, STRICT):
        schema.entity_of(body)
        for parse in (lambda sent, s=schema: s.columns([s.row(sent)], batch=False), schema.many):
            found = refusal(parse, body)
            assert found is None or (400 <= found.status < 500 and found.code and found.message)
            assert found is None or msgspec.json.encode({"message": found.message, "field": found.field})


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from([entry["name"] for entry in INPUTS]), JSON))
def test_whatever_a_field_holds_is_columns_or_a_refusal_that_names_a_field(fields: dict[str, Any]) -> None:
    """Promise 37, by hypothesis; and columns are refused where rows are."""
    row = {**ROW, **fields}
    found = refusal(SCHEMA.many, json.dumps({"rows": [row]}).encode())
    assert found is None or found.status == 400 or (found.status == 422 and found.field is not None)
    other = refusal(SCHEMA.many, json.dumps({"columns": {name: [value] for name, value in row.items()}}).encode())
    assert (other is None) == (found is None)
    assert found is None or other is None or other.status in (found.status, 413)  # nested commas count as values


NUMBERS = st.none() | st.floats(-1e38, 1e38) | st.integers(-(10**30), 10**30)
ANY_ROW = st.fixed_dictionaries(
    {
        "mean radius": st.floats(-1e38, 1e38),
        "count": st.integers(-(10**9), 10**9) | st.integers(-(10**6), 10**6).map(float),
        "vendor": st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        "at": st.datetimes().map(lambda moment: moment.isoformat()),
    },
    optional={
        "flag": st.none() | st.booleans(),
        "note": st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        "day": st.none() | st.dates().map(lambda day: day.isoformat()),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY_ROW, min_size=1, max_size=5))
def test_rows_and_columns_become_the_same_arrays_and_the_same_log(rows: list[dict[str, Any]]) -> None:
    one, two = rows_of(SCHEMA, rows), columns_of(SCHEMA, rows)
    assert equal(one.columns, two.columns)
    told = [[json.loads(line) for line in SCHEMA.inputs_json(checked, "all")] for checked in (one, two)]
    assert told[0] == told[1]
    assert equal(rows_of(SCHEMA, told[0]).columns, one.columns)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(INSIDE, NUMBERS)), min_size=1, max_size=5))
def test_every_number_is_kept_clipped_warned_of_or_refused_by_its_policy(rows: list[dict[str, Any]]) -> None:
    schema = Schema([{**entry, "type": "float", "missing": "impute"} for entry in POLICIES], max_batch=5)
    outside = [any(v is not None and not 0 <= v <= 10 for v in [row["bounded"]]) for row in rows]
    found = refusal(schema.many, json.dumps({"rows": rows}).encode())
    if any(outside):
        assert found is not None
        assert (found.code, found.field) == ("out_of_range", f"rows[{outside.index(True)}].bounded")
        return
    checked = rows_of(schema, rows)
    for name in INSIDE:
        for n, (row, held) in enumerate(zip(rows, checked.columns[name].tolist(), strict=True)):
            value = row[name]
            if value is None:
                assert math.isnan(held)
            elif name in ("clipped", "guessed"):
                assert held == min(max(value, 0), 10)
            else:
                assert held == float(value)
                warned = [w.field for w in (checked.warnings or [()] * len(rows))[n]]
                assert (f"rows[{n}].{name}" in warned) == (not 0 <= value <= 10)
