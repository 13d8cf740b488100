"""The settings of a source."""

from __future__ import annotations

import datetime as dt
import math
import zoneinfo
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from include.settings.types import DATE_FORMATS, ColumnType, Strict
from include.text import did_you_mean


class Incident(Strict):
    """Something that goes wrong in the generated trips between two days, both included."""

    kind: Literal["changed_column", "poisoned_day", "shift"]
    """`changed_column`: columns are renamed, dropped and of another type; `poisoned_day`: distances and amounts in
    other units, a column without values; `shift`: another traffic, which an old model misses."""
    start: dt.date
    """The first day."""
    end: dt.date | None = None
    """The last day. Default: without end."""


class SourceBase(Strict):
    """What every source declares, whatever its type."""

    description: str = ""
    """What the source is: the description of its DAG in Airflow."""
    owner: str = "data-engineering"
    """Who answers for the source: the owner of its DAGs in Airflow."""
    time_column: str | None = None
    """The column that dates a row. With it: one partition a day; without: a single one named `all`."""
    timezone: str = "UTC"
    """The IANA name of the zone whose days the partitions are, and of times that carry no zone of their own. Times are
    stored in UTC; in the hour that clocks turned back give twice, a time without a zone is the first."""
    start: dt.date | None = None
    """The first day there is data for: the default of the form, and where a catch-up begins."""
    schedule: str | None = None
    """Cron in UTC. Default with a time column: every night at 02:00, for a zone west of UTC two hours after its day has
    ended; without: once, and then by hand."""
    catchup: bool = False
    """Whether the scheduler ingests the days since `start` that it missed, one run each."""
    derive: dict[str, str] = Field(default_factory=dict)
    """Columns computed by formula when a partition is extracted, before it is validated."""
    suite: str | None = None
    """The Great Expectations suite in great_expectations/expectations/; default: the source's own name."""
    quarantine_share: float = Field(default=0.05, ge=0, le=1)
    """The share of rows that may break row-level expectations before the whole partition is refused."""

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            hint = did_you_mean(value, zoneinfo.available_timezones())
            raise ValueError(f"{value!r} is no IANA time zone, such as Europe/Berlin{hint}") from error
        return value

    @property
    def cron(self) -> str | None:
        """The schedule in force."""
        if self.schedule or not self.time_column:
            return self.schedule
        zone = zoneinfo.ZoneInfo(self.timezone)
        offsets = [dt.datetime(2026, month, 1, tzinfo=zone).utcoffset() or dt.timedelta() for month in (1, 7)]
        west = max(0.0, -min(offsets).total_seconds() / 3600)
        return f"0 {2 + math.ceil(west)} * * *"


class SampleSource(SourceBase):
    """Bundled data: scikit-learn's breast cancer table, or *generated* taxi trips."""

    type: Literal["sample"]
    """Bundled data."""
    dataset: Literal["taxi_trips", "breast_cancer"]
    """`taxi_trips`: generated, a day at a time; `breast_cancer`: one table without time."""
    rows_per_day: int = Field(default=2000, ge=1, le=1_000_000)
    """Generated trips a day."""
    seed: int = 2018
    """The same seed generates the same trips."""
    incidents: tuple[Incident, ...] = ()
    """What goes wrong in the generated trips, for practice and tests."""

    @model_validator(mode="before")
    @classmethod
    def _trips_are_dated(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("dataset") == "taxi_trips":
            return {"time_column": "pickup_datetime", **data}
        return data


class FilesSource(SourceBase):
    """Files on local disk or any fsspec URL, S3 included.

    `path` may hold `*` globs and the date parts `{yyyy}`, `{mm}`, `{dd}`, which name the period that a file covers.
    """

    type: Literal["files"]
    """Files of yours."""
    path: str = Field(min_length=1)
    """A path or an fsspec URL, with `*` globs and the date parts `{yyyy}`, `{mm}`, `{dd}` of a file's period."""
    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    """`auto`: by the file's name and content."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Name in the file → name here; every other setting uses the name here."""
    types: dict[str, ColumnType] = Field(default_factory=dict)
    """Column → its type, where what its values suggest is wrong."""
    exclude: tuple[str, ...] = ()
    """Columns that are not read."""
    columns: tuple[str, ...] | None = None
    """The names of the columns of a CSV file that has no header line."""
    skip_lines: int = Field(default=0, ge=0)
    """Lines of a CSV file that stand before its header line and are not read."""
    delimiter: str | None = None
    """What separates the fields of a CSV file. Default: a comma; a tab in a file named .tsv."""
    escape: Literal["", "\\"] = ""
    """The character that stands before a quotation mark (or another character with a meaning) within a field of a CSV
    file: a backslash. Default: none; a quotation mark in a quoted field is written twice."""
    encoding: str = "utf-8"
    """The encoding of CSV and JSON files, as Python names it."""
    trim: bool = True
    """Whether white space at the beginning and end of text is removed, of column names too."""
    null_values: tuple[str, ...] = ()
    """Texts that stand for a missing value, in every column. Always missing: an empty field; and, in columns that are
    not text, NA, N/A, NaN, null, None and the like."""
    decimal: Literal[".", ","] = "."
    """What separates the whole part of a number in text."""
    thousands: str = ""
    """What groups the digits of a number in text by three."""
    affixes: tuple[str, ...] = ()
    """What may stand before or after a number in text, and is removed: `$`, `%`, `km`."""
    date_format: str | dict[str, str] = ""
    """How dates and times in text (or, as epochs, in numbers) are written, for all columns or by column: `day_first`,
    `month_first`, `epoch_s`, `epoch_ms`, `epoch_us`, or a format such as `%d %b %Y`. Default: ISO 8601; an order of day
    and month that the file leaves open is refused."""
    endpoint_url: str | None = None
    """An S3-compatible server's address, for s3:// paths; credentials come from the environment."""

    @field_validator("null_values", "affixes", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        for item in value:
            if item is None or isinstance(item, bool | dt.date):
                raise ValueError(f"YAML reads this item as {item!r}, not as text; write it in quotes")
        return tuple(str(item) for item in value)

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value in ("\\t", "tab"):
            return "\t"
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f"one character, such as ';' or '\\t', not {value!r}")
        return value

    @field_validator("date_format")
    @classmethod
    def _date_formats(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for given in value.values() if isinstance(value, dict) else [value] if value else []:
            if given not in DATE_FORMATS and "%" not in given:
                raise ValueError(f"{' or '.join(DATE_FORMATS)}, or a format such as %d.%m.%Y, not {given!r}")
        return value

    @model_validator(mode="after")
    def _separators_differ(self) -> FilesSource:
        if len(self.thousands) > 1 or self.thousands.isalnum():
            raise ValueError(f"thousands: one character such as ',', '.' or ' ', not {self.thousands!r}")
        if self.thousands == self.decimal:
            raise ValueError(f"thousands: is {self.thousands!r}, like decimal; they must differ")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns: a name is there twice")
        for key, named in (("types", self.types), ("time_column", [self.time_column])):
            if both := set(self.exclude) & {name for name in named if name}:
                raise ValueError(f"exclude: {sorted(both)[0]!r} is named in {key} too")
        return self

    def date_format_of(self, column: str) -> str:
        """How dates are written in a column; empty where nothing is declared."""
        return self.date_format.get(column, "") if isinstance(self.date_format, dict) else self.date_format


Source = Annotated[SampleSource | FilesSource, Field(discriminator="type")]


SOURCE_TYPES: dict[str, type[SourceBase]] = {"sample": SampleSource, "files": FilesSource}
