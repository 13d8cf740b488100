"""`mlops suite`: proposed from as many days as there are, and judged on every one of them before it is written."""

from __future__ import annotations

import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.ingestion import drafting, judgement, sources, suites
from include.ingestion.proposal import Day
from tests.include.ingestion.conftest import files, generated

TODAY = dt.date(2025, 6, 1)


def _days(folder: Path, count: int, rows: int = 40, first: dt.date = dt.date(2025, 1, 1)) -> list[dt.date]:
    found = [first + dt.timedelta(day) for day in range(count)]
    for day in found:
        rng = random.Random(day.toordinal())
        lines = [
            f"{day}T{hour:02}:{rng.randint(0, 59):02}:00,{rng.uniform(-5, 9):.3f},{rng.randint(1, 6)},{shop}\n"
            for hour in range(0, 24)
            for shop in ("a", "b")
        ]
        (folder / f"s_{day}.csv").write_text("at,temperature,guests,shop\n" + "".join(lines[: 2 * rows]))
    return found


def _draft(source: Any, folder: Path, **given: Any) -> drafting.Draft:
    return drafting.draft(folder / "s.json", source, today=TODAY, **given)


def _accepted(draft: drafting.Draft, source: Any, folder: Path, days: list[dt.date], rows: int = 48) -> None:
    (folder / "s.json").write_text(json.dumps(draft.suite, allow_nan=False))
    suite = suites.load(folder / "s.json")
    for key, table in sources.read_partitions(source, [str(day) for day in days]):
        given = judgement.parameters(key, rows, TODAY)
        judged = judgement.judge(table, suite, quarantine_share=0.0, given=given)
        assert (key, judged.refused, judged.quality) == (key, None, 1.0)


def test_all_days_are_seen_without_a_start_and_every_one_is_accepted(tmp_path: Path) -> None:
    """The specimen: without `start` it looked at the day before yesterday, of which a file of last year has no row."""
    days = _days(tmp_path, 9)
    source = files(tmp_path / "s_{yyyy}-{mm}-{dd}.csv", time_column="at")
    draft = _draft(source, tmp_path)
    assert (draft.keys, draft.rows) == ([str(day) for day in days], 9 * 48)
    assert "from 432 rows of 9 days from 2025-01-01 to 2025-01-09" in draft.suite["notes"][0]
    _accepted(draft, source, tmp_path, days)


def test_a_single_file_of_all_days_is_cut_into_them(tmp_path: Path) -> None:
    days = _days(tmp_path, 3)
    parts = [(tmp_path / f"s_{day}.csv").read_text() for day in days]
    (tmp_path / "all.csv").write_text("".join([parts[0], *(part.split("\n", 1)[1] for part in parts[1:])]))
    source = files(tmp_path / "all.csv", time_column="at")
    draft = _draft(source, tmp_path)
    assert draft.keys == [str(day) for day in days]
    _accepted(draft, source, tmp_path, days)


@pytest.mark.slow
def test_of_many_days_the_newest_and_some_of_all_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = _days(tmp_path, 60, rows=2)
    source = files(tmp_path / "s_{yyyy}-{mm}-{dd}.csv", time_column="at")
    monkeypatch.setattr(drafting, "FEW", 50)
    draft = _draft(source, tmp_path)
    assert len(draft.keys) == drafting.DAYS
    assert draft.keys[0] == str(days[0])
    assert draft.keys[-7:] == [str(day) for day in days[-7:]]
    monkeypatch.setattr(drafting, "FEW", 10_000)
    assert _draft(source, tmp_path).keys == [str(day) for day in days]


def test_the_names_of_files_say_their_days(tmp_path: Path) -> None:
    for name in ("t_2024-02_a.csv", "t_2024-12_b.csv", "t_notes_c.csv", "t_2024-13_d.csv"):
        (tmp_path / name).write_text("at\n")
    found = sources.days_of(files(tmp_path / "t_{yyyy}-{mm}_*.csv", time_column="at"), TODAY)
    assert len(found) == 29 + 31
    assert (found[0], found[-1]) == (dt.date(2024, 2, 1), dt.date(2024, 12, 31))
    folder = tmp_path / "2023"
    folder.mkdir()
    (folder / "y.csv").write_text("at\n")
    assert len(sources.days_of(files(tmp_path / "{yyyy}" / "*.csv", time_column="at"), TODAY)) == 365


def test_the_generated_trips_have_days_from_their_start() -> None:
    found = sources.days_of(generated(start=dt.date(2018, 1, 1)), TODAY)
    assert (found[0], len(found)) == (dt.date(2018, 1, 1), 31)


def test_what_only_some_days_have_gets_no_rule_and_is_named(tmp_path: Path) -> None:
    whole = {"at": pa.array([dt.datetime(2025, 1, 1, hour) for hour in range(24)]), "x": pa.array(range(24))}
    other = {"at": pa.array([dt.datetime(2025, 1, 2, hour) for hour in range(24)]), "x": pa.array([0.5] * 24)}
    third = {"at": pa.array([dt.datetime(2025, 1, 3, hour) for hour in range(24)]), "x": pa.array([1.5] * 24)}
    pq.write_table(pa.table({**whole, "fee": ["a"] * 24, "code": range(24)}), tmp_path / "s_2025-01-01.parquet")
    pq.write_table(pa.table({**other, "code": ["A1"] * 24}), tmp_path / "s_2025-01-02.parquet")
    pq.write_table(pa.table({**third, "code": ["A1"] * 24}), tmp_path / "s_2025-01-03.parquet")
    source = files(tmp_path / "s_{yyyy}-{mm}-{dd}.parquet", time_column="at")
    draft = _draft(source, tmp_path)
    assert "fee: in 1 of 3 days only; no rule." in draft.suite["notes"]
    assert "column code is int in 2025-01-01 and string in 2025-01-02; no rule." in draft.suite["notes"]
    _accepted(draft, source, tmp_path, [dt.date(2025, 1, day) for day in (1, 2, 3)], rows=24)


def test_columns_are_united_as_ingestion_does_and_what_it_would_refuse_gets_no_rule(tmp_path: Path) -> None:
    """Whole numbers that no float holds beside fractions ended the proposal; dates beside times got no rule."""
    at = [dt.datetime(2025, 1, 1, hour) for hour in range(24)]
    columns = {"big": [2**53 + 1] * 24, "due": [dt.date(2025, 2, 1)] * 24}
    pq.write_table(pa.table({"at": at, **columns}), tmp_path / "s_2025-01-01.parquet")
    columns = {"big": [0.5] * 24, "due": [dt.datetime(2025, 2, 1, 12)] * 24}
    later = [moment + dt.timedelta(1) for moment in at]
    pq.write_table(pa.table({"at": later, **columns}), tmp_path / "s_2025-01-02.parquet")
    draft = _draft(files(tmp_path / "s_{yyyy}-{mm}-{dd}.parquet", time_column="at"), tmp_path)
    [note] = [note for note in draft.suite["notes"] if note.endswith("no rule.") and "freshness" not in note]
    assert "2025-01-01: column big: 9007199254740993 cannot be held exactly as float" in note
    assert {rule["kwargs"].get("column") for rule in draft.suite["expectations"]} >= {"at", "due"}


def test_a_days_last_hours_are_those_of_its_zone(tmp_path: Path) -> None:
    """From noon to ten at night in New York: two hours of silence, and not seven before the end of the UTC day."""
    lines = [f"2025-01-06T{hour:02}:{minute:02}:00-05:00,1\n" for hour in range(12, 22) for minute in range(0, 60, 6)]
    (tmp_path / "s_2025-01-06.csv").write_text("at,x\n" + "".join(lines))
    source = files(tmp_path / "s_{yyyy}-{mm}-{dd}.csv", time_column="at", timezone="America/New_York")
    found: list[str] = []
    (part,) = drafting._sample(source, TODAY, found)
    assert part.day == Day(100, dt.timedelta(hours=2, minutes=6))


def test_a_damaged_day_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    _days(tmp_path, 3)
    (tmp_path / "s_2025-01-02.csv").write_bytes(b"at,temperature\n\xff\xfe")
    draft = _draft(files(tmp_path / "s_{yyyy}-{mm}-{dd}.csv", time_column="at"), tmp_path)
    assert draft.keys == ["2025-01-01", "2025-01-03"]
    assert any(note.startswith("Not looked at: ") and "s_2025-01-02.csv" in note for note in draft.suite["notes"])


@pytest.mark.parametrize("time_column", [None, "at"])
def test_no_row_at_all_is_an_error(time_column: str | None, tmp_path: Path) -> None:
    (tmp_path / "s_2025-01-02.csv").write_text("at,x\n")
    path = tmp_path / ("s_{yyyy}-{mm}-{dd}.csv" if time_column else "s_2025-01-02.csv")
    with pytest.raises(sources.SourceError, match="there is not one row to propose from"):
        _draft(files(path, time_column=time_column), tmp_path)


def test_a_target_has_no_bounds_and_a_guess_is_told(tmp_path: Path) -> None:
    lines = [f"{'' if n == 3 else n * 2.5},{n % 7},{'-' if n == 5 else n}\n" for n in range(60)]
    (tmp_path / "s.csv").write_text("price,size,charges\n" + "".join(lines))
    draft = _draft(files(tmp_path / "s.csv"), tmp_path, unbounded={"price"})
    bounded = {
        e["kwargs"]["column"]
        for e in draft.suite["expectations"]
        if "between" in e["type"] and e["kwargs"].get("column")
    }
    assert bounded == {"size"}
    assert any(note.startswith("charges: 98.3 % numbers, 1 is '-' or the like") for note in draft.suite["notes"])


def test_a_rule_that_a_day_breaks_is_left_out_and_named(tmp_path: Path) -> None:
    part = drafting._Part("2025-01-01", pa.table({"x": [1.0, 99.0]}), Day(2))
    between = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "max_value": 50}}
    proposed: dict[str, Any] = {
        "name": "s",
        "notes": [],
        "expectations": [between, {"type": "expect_column_to_exist", "kwargs": {"column": "x"}}],
    }
    drafting._leave_out_what_breaks(tmp_path / "s.json", proposed, [part], TODAY)
    assert [e["type"] for e in proposed["expectations"]] == ["expect_column_to_exist"]
    assert proposed["notes"] == ["Left out, because rows of 2025-01-01 break it: x: must be between (max_value 50)."]


@pytest.mark.parametrize(
    ("times", "why"),
    [
        (("1735689600", "1735690200"), "declare `date_format`: epoch_s"),
        (("05/01/2025", "06/01/2025"), "day_first"),
        (("morning", "noon"), "'morning' is not a timestamp"),
    ],
)
def test_times_that_cannot_be_read_are_said_where_a_suite_is_asked_for(
    times: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("at,v\n" + "".join(f"{time},{n}\n" for n, time in enumerate(times)))
    with pytest.raises(sources.SourceError, match=why):
        _draft(files(tmp_path / "a.csv", time_column="at"), tmp_path)


def test_a_time_column_that_is_not_there_is_said_where_a_suite_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("when,v\n2025-01-01,1\n")
    with pytest.raises(sources.SourceError, match="the time column 'at' is missing"):
        _draft(files(tmp_path / "a.csv", time_column="at"), tmp_path)


def test_what_counts_as_missing_is_said_by_column(tmp_path: Path) -> None:
    charges = "".join(f"{n},{' ' if n % 10 == 0 else n * 1.5}\n" for n in range(40))
    (tmp_path / "a.csv").write_text(f"customer,charges\n{charges}")
    assert "charges: 4 of 40 values are missing" in _draft(files(tmp_path / "a.csv"), tmp_path).suite["notes"]
