"""What `make demo` asks for, and what it tells."""

from __future__ import annotations

import datetime as dt
import shlex
from pathlib import Path

import pytest

from include import settings
from include.stack import demo
from include.stack.airflow_api import Run
from include.stack.local import Stack

TODAY = dt.date(2026, 3, 10)


def source(**more: object) -> settings.SampleSource:
    return settings.SampleSource.model_validate({"type": "sample", "dataset": "taxi_trips", **more})


def test_by_default_the_history_is_sixty_days_and_leaves_yesterday_to_the_schedule() -> None:
    asked = demo.history("", "", today=TODAY)
    assert (asked.first, asked.last) == (dt.date(2026, 1, 8), dt.date(2026, 3, 8))
    assert not asked.asked


def test_the_user_may_name_the_days() -> None:
    asked = demo.history("2018-01-01", "2018-06-30", today=TODAY)
    assert asked.of(source(start="2020-01-01")) == (dt.date(2018, 1, 1), dt.date(2018, 6, 30))


@pytest.mark.parametrize(("first", "last"), [("01/02/2018", ""), ("2018-02-30", ""), ("2018-02-02", "2018-02-01")])
def test_days_that_are_none_are_refused(first: str, last: str) -> None:
    with pytest.raises(demo.DemoError, match=r"FROM|TO"):
        demo.history(first, last, today=TODAY)


def test_a_source_that_begins_later_is_not_asked_for_earlier_days() -> None:
    asked = demo.history("", "", today=TODAY)
    assert asked.of(source(start="2026-03-01")) == (dt.date(2026, 3, 1), dt.date(2026, 3, 8))
    assert asked.of(source(start="2026-03-20")) is None


def test_files_begin_where_the_source_says_however_long_ago() -> None:
    files = settings.FilesSource.model_validate(
        {"type": "files", "path": "x-{yyyy}-{mm}.parquet", "time_column": "t", "start": "2018-01-01"}
    )
    assert demo.history("", "", today=TODAY).of(files) == (dt.date(2018, 1, 1), dt.date(2018, 3, 1))


def test_the_curl_line_survives_a_shell_whatever_the_row_holds(tmp_path: Path) -> None:
    stack = Stack(tmp_path, tmp_path / "a home", "id", {"airflow": 1, "mlflow": 2, "serving": 3, "postgres": 4})
    line = demo.curl(stack, "trips", {"note": "it's $HOME `x`", "n": None})
    words = shlex.split(line)
    assert words[0] == "curl"
    assert words[-1] == '{"note": "it\'s $HOME `x`", "n": null}'
    assert "http://127.0.0.1:3/models/trips/predict" in words
    assert "\n" not in line


def test_a_run_knows_how_long_it_took() -> None:
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert Run("d", "r", "success", "manual", begin, begin + dt.timedelta(seconds=3)).seconds == 3
    assert Run("d", "r", "running", "manual", begin, None).active
