"""Tables are read by a child: whatever they do to it, the worker answers, and the next table is read."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from include.inference.errors import Refused
from include.inference.schema import ARROW, PARQUET
from include.serving.http.table_process import TableProcess
from tests.include.inference.test_columnar import FORMS, SCHEMA, TABLE, claiming, parquet, same, stream

HOSTILE = """
from include.serving.http import table_process; from include.inference import columnar as tables
def burn(body, *rest):
    {0}
tables._parquet = burn
table_process.CPU_SECONDS = 0
table_process.main()
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[TableProcess]:
    process = TableProcess(60.0)
    yield process
    process.close()


@FORMS
def test_the_child_reads_what_the_process_itself_reads(reader: TableProcess, content_type: str, write: object) -> None:
    body = write(TABLE)  # type: ignore[operator]
    assert same(SCHEMA.many(body, content_type, reader), SCHEMA.many(body, content_type))


def test_one_child_reads_many_tables_and_tells_what_is_wrong_with_the_path(reader: TableProcess) -> None:
    reader.read(SCHEMA, stream(TABLE), ARROW)
    child = reader.pid
    for body, code, field in (
        (stream(TABLE.drop_columns(["vendor"])), "missing", "columns.vendor"),
        (stream(TABLE.slice(0, 0)), "empty_batch", "columns"),
        (b"nothing of the kind", "malformed_arrow", None),
    ):
        with pytest.raises(Refused) as caught:
            SCHEMA.many(body, ARROW, reader)
        assert (caught.value.code, caught.value.field) == (code, field)
    with pytest.raises(Refused, match="claimed"):
        SCHEMA.many(claiming(7, 2**62), PARQUET, reader)
    assert reader.pid == child


def test_a_child_that_was_killed_has_a_successor(reader: TableProcess) -> None:
    body = parquet(TABLE)
    reader.read(SCHEMA, body, PARQUET)
    first = reader.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert reader.read(SCHEMA, body, PARQUET)[1] == 3
    assert reader.pid != first


def test_a_child_that_does_not_answer_costs_one_request(reader: TableProcess) -> None:
    reader.read(SCHEMA, stream(TABLE), ARROW)
    impatient = TableProcess(60.0)
    impatient.read(SCHEMA, stream(TABLE), ARROW)
    assert impatient.pid is not None
    os.kill(impatient.pid, signal.SIGSTOP)
    impatient._seconds = 0.2
    with pytest.raises(Refused) as caught:
        impatient.read(SCHEMA, stream(TABLE), ARROW)
    assert (caught.value.status, caught.value.code) == (503, "timeout")
    impatient._seconds = 60.0
    assert impatient.read(SCHEMA, stream(TABLE), ARROW)[1] == 3
    impatient.close()


@pytest.mark.parametrize(
    ("does", "status", "code"),
    [
        ("import os; os.abort()", 400, "malformed_parquet"),
        ("while True: pass", 413, "too_costly"),
        ("import numpy; numpy.ones(1 << 30)", 413, "body_too_large"),
    ],
)
def test_bytes_that_end_the_child_or_eat_its_time_or_memory_are_refused(does: str, status: int, code: str) -> None:
    reader = TableProcess(60.0, (sys.executable, "-c", HOSTILE.format(does)))
    with pytest.raises(Refused) as caught:
        reader.read(SCHEMA, parquet(TABLE), PARQUET)
    assert (caught.value.status, caught.value.code) == (status, code)
    reader.close()


def test_a_child_that_does_not_start_is_said_with_what_to_send_instead() -> None:
    reader = TableProcess(60.0, (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(Refused, match="send JSON") as caught:
        reader.read(SCHEMA, parquet(TABLE), PARQUET)
    assert (caught.value.status, caught.value.code) == (503, "tables_unavailable")


def test_the_child_has_no_secret_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_SERVING_KEY", "secret-of-the-service")
    monkeypatch.setenv("MLOPS_DATABASE_URL", "postgresql://secret")
    reader = TableProcess(60.0)
    assert reader.read(SCHEMA, stream(pa.table(TABLE)), ARROW)[1] == 3
    assert b"secret" not in Path(f"/proc/{reader.pid}/environ").read_bytes()
    reader.close()
