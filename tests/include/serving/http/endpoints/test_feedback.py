"""Late labels: what is taken, what is refused with its path, and what PostgreSQL then holds."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.inference.errors import Refused
from include.serving.http.endpoints import feedback

NOW = dt.datetime(2026, 3, 2, 8, 30, tzinfo=dt.UTC)
ID = "0190f3c2a1b400000000000000000001"
CLASSES: dict[str, list[Any] | None] = {
    "regression": None, "bool": [False, True], "text": ["no", 'y\t"e\\s\n'], "whole": [0, 1, 2], "float": [0.5, 1.5]
}  # fmt: skip


def told(document: Any, classes: list[Any] | None = None) -> list[list[str]]:
    """The lines of a body, split; in the order of `feedback.COLUMNS`."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines, count = feedback.labels("trips", body, classes=classes, caller="clinic", now=NOW)
    found = [line.split("\t") for line in lines.decode().split("\n")[:-1]]
    assert len(found) == count
    assert all(len(line) == len(feedback.COLUMNS) for line in found)
    return found


def refused(document: Any, classes: list[Any] | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        told(document, classes)
    return caught.value


def test_a_label_of_a_prediction_becomes_true_now_unless_it_says_when() -> None:
    [line] = told({"prediction_id": ID.upper(), "label": 12.5})
    assert line[:7] == ["trips", ID, "\\N", "12.5", NOW.isoformat(), NOW.isoformat(), "clinic"]
    [line] = told({"prediction_id": ID, "label": 3, "at": "2026-03-01T10:00:00+02:00"})
    assert line[3:6] == ["3.0", "2026-03-01T08:00:00+00:00", NOW.isoformat()]
    assert told({"prediction_id": ID, "label": 3, "at": "2026-03-01T10:00:00"})[0][4] == "2026-03-01T10:00:00+00:00"


def test_a_name_that_is_given_twice_is_refused_with_its_path() -> None:
    for body, field in (
        (b'{"prediction_id": "%b", "label": 1, "label": 2}' % ID.encode(), "label"),
        (b'{"labels": [{"entity": "a", "label": 1}, {"entity": "a", "label": 1, "entity": "b"}]}', "labels[1].entity"),
        (b'{"labels": [], "labels": [{"entity": "a", "label": 1}]}', "labels"),
    ):
        found = refused(body)
        assert (found.status, found.code, found.field) == (422, "duplicate_field", field)


def test_labels_from_the_far_future_and_past_are_kept_with_their_time() -> None:
    """Promise 42."""
    for at in ("2999-12-31T00:00:00+00:00", "1900-01-01T00:00:00+00:00"):
        assert told({"prediction_id": ID, "label": 1, "at": at})[0][4] == at


@pytest.mark.parametrize(("entity", "kept"), [("a b", "a b"), ("a\tb\\", "a\\tb\\\\"), (7, "7"), (7.0, "7")])
def test_an_entity_is_named_as_in_the_requests(entity: Any, kept: str) -> None:
    assert told({"entity": entity, "label": 1})[0][1:3] == ["\\N", kept]


def test_a_batch_is_one_batch_and_each_request_is_its_own() -> None:
    first, second = told({"labels": [{"prediction_id": ID, "label": 1}, {"entity": "a", "label": 2}]})
    assert first[7] == second[7]
    assert told({"prediction_id": ID, "label": 1})[0][7] != first[7]
    assert told({"entity": '"labels"', "label": 1})[0][2] == '"labels"'


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("regression", [1, -2.5, 0], [True, "1", "x"]),
     ("bool", [True, False], [1, 0, "true"]),
     ("text", ["no", 'y\t"e\\s\n'], ["yes", "No", 1, True]),
     ("whole", [0, 2, 1.0], [3, "1", True, 0.5]),
     ("float", [0.5, 1.5], [0, 1, "0.5"])],
)  # fmt: skip
def test_a_label_is_what_the_model_predicts(kind: str, good: list[Any], bad: list[Any]) -> None:
    for label in good:
        line = told({"prediction_id": ID, "label": label}, CLASSES[kind])[0]
        assert json.loads(line[3].replace("\\\\", "\\")) == label
    for label in bad:
        error = refused({"labels": [{"prediction_id": ID, "label": label}]}, CLASSES[kind])
        assert (error.status, error.field) == (422, "labels[0].label")


@pytest.mark.parametrize(
    ("document", "status", "code", "field"),
    [(b"", 400, "malformed_json", None),
     (b"{", 400, "malformed_json", None),
     (b"\xff", 400, "malformed_json", None),
     (b'{"entity": "\xff", "label": 1}', 400, "malformed_json", None),
     (b'{"entity": "a", "label": NaN}', 400, "malformed_json", None),
     (b'{"labels":' + b"[" * 100_000, 400, "too_deep", None),
     (b'{"entity": ' + b"9" * 5000 + b', "label": 1}', 422, "wrong_type", "entity"),
     (b'{"entity": "a", "label": 1e999}', 422, "wrong_type", "label"),
     ([], 422, "wrong_type", None),
     ("labels", 422, "wrong_type", None),
     ({}, 422, "missing", "label"),
     ({"label": 1}, 422, "missing", "prediction_id"),
     ({"prediction_id": ID, "entity": "a", "label": 1}, 422, "ambiguous", "prediction_id"),
     ({"prediction_id": ID}, 422, "missing", "label"),
     ({"prediction_id": ID, "label": None}, 422, "wrong_type", "label"),
     ({"prediction_id": ID, "label": []}, 422, "wrong_type", "label"),
     ({"prediction_id": ID, "label": 1, "weight": 2}, 422, "unknown_field", "weight"),
     ({"prediction_id": ID[:-1], "label": 1}, 422, "wrong_type", "prediction_id"),
     ({"prediction_id": ID[:-1] + "g", "label": 1}, 422, "wrong_type", "prediction_id"),
     ({"prediction_id": ID + "\n", "label": 1}, 422, "wrong_type", "prediction_id"),
     ({"prediction_id": 7, "label": 1}, 422, "wrong_type", "prediction_id"),
     ({"entity": "", "label": 1}, 422, "wrong_type", "entity"),
     ({"entity": "a\0", "label": 1}, 422, "wrong_type", "entity"),
     ({"entity": "a" * 513, "label": 1}, 422, "wrong_type", "entity"),
     ({"entity": 7.5, "label": 1}, 422, "wrong_type", "entity"),
     ({"entity": True, "label": 1}, 422, "wrong_type", "entity"),
     ({"entity": "a", "label": 1, "at": "yesterday"}, 422, "wrong_type", "at"),
     ({"entity": "a", "label": 1, "at": 1772440200}, 422, "wrong_type", "at"),
     ({"entity": "a", "label": 1, "at": "2026-02-30T00:00:00Z"}, 422, "wrong_type", "at"),
     ({"entity": "a", "label": 1, "at": "0001-01-01T00:00:00+10:00"}, 422, "out_of_range", "at"),
     ({"labels": {}}, 422, "wrong_type", "labels"),
     ({"labels": []}, 422, "empty_batch", "labels"),
     ({"labels": [1]}, 422, "wrong_type", "labels[0]"),
     ({"labels": [], "more": 1}, 422, "unknown_field", "more"),
     ({"labels": [{"entity": "a", "label": 1}] * 3 + [{"prediction_id": "x", "label": 1}]},
      422, "wrong_type", "labels[3].prediction_id"),
     ({"labels": [{"entity": "a", "label": 1}] * 10_001}, 413, "too_many_labels", "labels")],
)  # fmt: skip
def test_whatever_is_wrong_is_refused_with_its_path(document: Any, status: int, code: str, field: str | None) -> None:
    """Promise 37."""
    error = refused(document)
    assert (error.status, error.code, error.field) == (status, code, field)
    assert len(error.message) < 500


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_fields = {"label": _json, "prediction_id": _json | st.just(ID), "entity": _json, "at": _json | st.datetimes().map(str)}
_entry = st.fixed_dictionaries({}, optional=_fields)


@given(_json | _entry | st.fixed_dictionaries({"labels": st.lists(_entry, max_size=4)}), st.sampled_from(list(CLASSES)))
def test_nothing_that_can_be_sent_is_our_failure(document: Any, kind: str) -> None:
    body = json.dumps(document).encode("utf-8", "surrogatepass")
    try:
        lines, count = feedback.labels("trips", body, classes=CLASSES[kind], caller=None, now=NOW)
    except Refused:
        return
    assert lines.count(b"\n") == count


@given(st.binary(max_size=60))
def test_no_bytes_are_our_failure(body: bytes) -> None:
    with pytest.raises(Refused):
        feedback.labels("trips", body, classes=None, caller=None, now=NOW)


def test_postgresql_takes_the_lines_and_holds_what_was_sent(database_url: str) -> None:
    sent = [
        {"prediction_id": ID, "label": 'y\t"e\\s\n'},
        {"entity": 'tab\tbackslash\\newline\nreturn\rquote"é\U0001f600', "label": "no", "at": "2999-12-31T00:00:00Z"},
        {"prediction_id": ID, "label": "no"},  # contradicts the first: both are kept
    ]
    lines, count = feedback.labels(
        "trips", json.dumps({"labels": sent}).encode(), classes=CLASSES["text"], caller="clinic", now=NOW
    )
    numbers = [0.1, -0.0, 1e308, 5e-324, 123456789.123456789]
    more = b"".join(
        feedback.labels("fares", b'{"entity":"a","label":%r}' % n, classes=None, caller=None, now=NOW)[0]
        for n in numbers
    )
    with psycopg.connect(database_url.replace("+psycopg2", ""), autocommit=True) as connection:
        columns = ", ".join(feedback.COLUMNS)
        with connection.cursor().copy(f"copy {feedback.TABLE} ({columns}) from stdin") as copy:
            copy.write(lines + more)
        rows = connection.execute(f"select {columns} from labels where model = 'trips' order by id").fetchall()
        kept = [row[0] for row in connection.execute("select label from labels where model = 'fares' order by id")]
    assert count == len(rows) == 3
    assert [row[2] for row in rows] == [None, sent[1]["entity"], None]
    assert [str(row[1]) if row[1] else None for row in rows] == [str(rows[0][1]), None, str(rows[0][1])]
    assert rows[0][1].hex == ID
    assert [row[3] for row in rows] == ['y\t"e\\s\n', "no", "no"]
    assert [row[4].year for row in rows] == [2026, 2999, 2026]
    assert {row[5] for row in rows} == {NOW}
    assert {row[6] for row in rows} == {"clinic"}
    assert len({row[7] for row in rows}) == 1
    assert all(math.isclose(k, n, rel_tol=1e-15) for k, n in zip(kept, numbers, strict=True))
