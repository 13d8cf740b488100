"""What a file really is, seen by its first bytes and its header, with what to do about it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.ingestion import formats, sources
from include.ingestion.formats import packing as packings
from include.ingestion.sources import SourceError, UnreadablePartitions
from tests.include.ingestion.conftest import files

RANDOM = np.random.default_rng(5)


def _read(path: Path, **given: Any) -> pa.Table:
    """The one partition of a file; its columns must be the same to `mlops check`."""
    source = files(path, **given)
    columns = sources.columns_of(source)
    ((_, table),) = sources.read_partitions(source, ["all"])
    assert list(columns) == table.column_names
    assert all(sources.column_type(table[n].type) == kind for n, kind in columns.items() if table[n].null_count == 0)
    return table


def _refused(path: Path, content: bytes | str, message: str, **given: Any) -> None:
    """Refused by the check that comes before a run and by the run, in the same words."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((UnreadablePartitions, SourceError), match=message):
        sources.columns_of(files(path, **given))
    with pytest.raises((UnreadablePartitions, SourceError), match=message):
        list(sources.read_partitions(files(path, **given), ["all"]))


def _zip(name: str) -> bytes:
    path = Path("/dev/shm") / f"recognition-{name.replace('/', '-')}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "a,b\n1,2\n")
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_zip("rows.csv"), "a zip archive; unpack it"),
        (_zip("xl/workbook.xml"), "an Excel workbook.*save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an old Excel workbook"),
        ("a,b\n1,2\n".encode("utf-16"), "declare `encoding: utf-16`"),
        ("a,b\n1,2\n".encode("utf-16-le"), "declare `encoding: utf-16-le`"),
        ("a,b\n1,2\n".encode("utf-16-be"), "declare `encoding: utf-16-be`"),
        (b"PAR1" + bytes(20), "a Parquet file; name it .parquet"),
        (b"<!DOCTYPE html><html>404</html>", "a web page or XML, not data"),
        (b"BZh91AY&SY", "the bzip2 is truncated"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "the zstd is"),
        (b"\xfd7zXZ\0" + bytes(9), "the xz is corrupt"),
        (gzip.compress(bz2.compress(b"a,b\n1,2\n"), mtime=0), "packed twice, with gzip and inside with bzip2"),
        (gzip.compress("a,b\n1,2\n".encode("utf-16"), mtime=0), "declare `encoding: utf-16`"),
        (b"ORC\n\x0b\0\x12" + bytes(9), "an ORC file"),
        (b"%PDF-1.7", "a PDF document"),
        (b"SQLite format 3\0", "a SQLite database"),
        (b"ARROW1\0\0", "write it as Parquet"),
        (b"\x80\x04\x95", "a Python pickle, which is never opened"),
        (gzip.compress(b"PAR1" + bytes(20), mtime=0), "a Parquet file"),
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"a,a\n1,2\n", "the column 'a' is there twice, at places 1 and 2"),
        (b"a, a\n1,2\n", "the column 'a' is there twice"),
        (
            b",a\n0,2\n",
            r"the column '' has no name, at place 1 \(pandas writes its index.*index=False.*.*rename: {\"\": name}",
        ),
        (b"a,,b\n0,2,3\n", "the column '' has no name, at place 2"),
        (b"a,b,\n0,2,\n", r"at place 3 and no value \(each line ends with a delimiter.*exclude: .spare."),
        (b"sep=;\na;b\n1;2\n", r"an instruction to Excel.*skip_lines: 1` and `delimiter: ';'`"),
        (b"# made by X\n# in May\na,b\n1,2\n1,2\n1,2\n", "row 3 is the first .*`skip_lines: 2`"),
        (b"Prices\na,b\n1,2\n1,2\n1,2\n", "row 2 is the first .*`skip_lines: 1`"),
        (b"a,b\nx,1,2\ny,1,2\nz,1,2\nw,1,2\n", "row 2 has 3 fields, the header 2"),
        (b"a,b\n1,2\na,b\n3,4\n", "row 3 is the header line again"),
        (b'"a,b\n' + b"1,2\n" * 50_000, "a quotation mark in it not closed"),
        (b"_reason,b\n1,2\n", "the name under which quarantine.*rename"),
        (b"Bob,1,2,3\nAnn,4,5,6\n", r"is data, not a header.*under `types`: `{\"Bob\": string}`"),
        (b"5.1,3.5,setosa\n4.9,3.0,setosa\n", r"the first line \(5.1, 3.5, setosa\) is data, not a header.*columns"),
        (b"1,0,3,male\n0,1,2,female\n", "is data, not a header"),
        (b"1949-01,112\n1949-02,118\n", "is data, not a header"),
        (b"0.5,0,1\n0.25,0,1\n", "is data, not a header"),
        (b"young,no\nold,yes\nyoung,no\n", "is data, not a header"),
        (b"a;b\n1;2\n", "declare `delimiter: ';'`"),
        (b"a\tb\n1\t2\n", r"declare `delimiter: '\\t'`"),
        (b"a|b\n1|2\n", r"declare `delimiter: '\|'`"),
    ],
)
def test_a_csv_that_is_something_else_is_told_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    _refused(tmp_path / "rows.csv", content, message)


@pytest.mark.parametrize("header", ["ORCID,b", "PAR1,b", "ARROW1,b", "BZh9,b", "country,2019", "PKZ,b"])
def test_a_header_that_begins_as_another_format_does_is_a_header(tmp_path: Path, header: str) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\nx,y\n")
    assert _read(tmp_path / "rows.csv").column_names == header.split(",")


@pytest.mark.parametrize("header", ["country,2019,2020,2021", "country,code,2000,2010", "shop,2020-01,2020-02"])
def test_periods_beside_words_are_a_header(tmp_path: Path, header: str) -> None:
    row = ",".join("ab" if name.isalpha() else "1" for name in header.split(","))
    (tmp_path / "rows.csv").write_text(f"{header}\n{row}\n")
    assert _read(tmp_path / "rows.csv").column_names == header.split(",")


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_packed_text_is_read_whole_and_by_its_head(
    tmp_path: Path, packing: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack: dict[str, Any] = {
        "gz": gzip.compress, "bz2": lambda raw: bz2.compress(raw, 1), "xz": lzma.compress,
        "zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
    }  # fmt: skip
    separator = "\t" if name.endswith("tsv") else ","
    noise = RANDOM.bytes(160_000).hex()  # packs to half of it
    rows = [(n, noise[n * 80 : n * 80 + 80]) for n in range(4000)]
    text = "\n".join([f"a{separator}b", *(f"{n}{separator}x{word}" for n, word in rows)])
    if name.endswith("jsonl"):
        text = "\n".join(f'{{"a": {n}, "b": "x{word}"}}' for n, word in rows)
    path = tmp_path / f"{name}.{packing}"
    path.write_bytes(pack[packing](text.encode()))
    for module in (formats, packings):
        monkeypatch.setattr(module, "HEAD", 120_000)
    assert path.stat().st_size > formats.HEAD
    assert _read(path)["a"].to_pylist() == list(range(4000))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UnreadablePartitions, match=r"truncated.*fetch it again"):
        list(sources.read_partitions(files(path), ["all"]))


def test_lines_before_the_header_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("Prices, of May\n\nday;n\nmon;1\ntue;x\n")
    given = {"skip_lines": 2, "delimiter": ";"}
    assert _read(tmp_path / "rows.csv", **given).to_pydict() == {"day": ["mon", "tue"], "n": ["1", "x"]}
    content = (tmp_path / "rows.csv").read_bytes()
    _refused(tmp_path / "rows.csv", content, "row 5, column n: 'x' is not a int", types={"n": "int"}, **given)
    _refused(tmp_path / "rows.csv", "a\n", "no more than the 2 lines that `skip_lines` leaves out", **given)


QUOTED = b'size,note\n5,"a \\"good\\" one, at last"\n7,"C:\\\\dir\\\\"\n'


def test_a_quotation_mark_after_a_backslash_is_read_as_declared_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    _refused(path, QUOTED, r"row 2: a quotation mark within a field is written .*; declare `escape: ")
    path.write_bytes(QUOTED)
    assert _read(path, escape="\\")["note"].to_pylist() == ['a "good" one, at last', "C:\\dir\\"]


@pytest.mark.parametrize(
    "field",
    ['"C:\\dir\\"', '"{""a"": ""b\\""c""}"', '5\\" pipe', '"a\\b"', '"ends in \\"""'],
    ids=["a-path", "json", "not-quoted", "no-mark", "doubled"],
)
def test_a_backslash_that_takes_nothing_is_only_a_character(tmp_path: Path, field: str) -> None:
    (tmp_path / "rows.csv").write_text(f"note,size\n{field},1\n{field},2\n")
    expected = field[1:-1].replace('""', '"') if field.startswith('"') else field
    assert _read(tmp_path / "rows.csv")["note"].to_pylist() == [expected] * 2


def test_a_nested_value_is_its_own_text_whatever_others_hold(tmp_path: Path) -> None:
    """A key that another row has was added to it; and dates beside it became text."""
    rows = [{"n": {"a": 1}, "at": "2020-01-01 10:00:00"}, {"n": {"b": [1, "x"]}, "at": "2020-01-02 10:00:00"}]
    for chosen in (rows[:1], rows):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
        table = _read(tmp_path / "rows.jsonl")
        assert table["n"].to_pylist() == [json.dumps(row["n"]) for row in chosen]
        assert pa.types.is_timestamp(table["at"].type)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"a": "\\ud800"}\n', "row 1, column a: half of a surrogate pair"),
        ("rows.jsonl", '{"a": ' + "[" * 5_000 + "\n", "row 1 is not JSON"),
        ("rows.parquet", b"", "the file is empty"),
        ("rows.parquet", b"a,b\n1,2\n", "not a Parquet file"),
        ("rows.parquet", gzip.compress(b"PAR1", mtime=0), "gzip: unpack it, Parquet is packed inside"),
        ("rows.xlsx", _zip("xl/workbook.xml"), "a spreadsheet; save the sheet as CSV"),
        ("rows.jsonl", '[{"a": 1}]', "a JSON list; write one object a line"),
        ("rows.jsonl", '{"a": 1}\n{"a": 2\n', "row 2 is not JSON"),
        ("rows.jsonl", '{"a": 1}\n[2]\n', "row 2 is a JSON list, not an object"),
        ("rows.jsonl", '{"a": 1, "a": 2}\n', "row 1: the key 'a' is there twice"),
        (
            "rows.jsonl",
            '{"a": 1}\n{"a": "x"}\n',
            "column a is a number in row 1 and a str in row 2.*types: {a: string}",
        ),
        ("rows.jsonl", '{"a": 18446744073709551616}\n', "row 1, column a: 18446744073709551616 is beyond 64 bits"),
        ("rows.jsonl", '{"a": 9007199254740993}\n{"a": 0.5}\n', "row 1, column a: 9007199254740993 is a whole number"),
        ("rows.jsonl", '{"": 1}\n', "the column '' has no name, at place 1"),
    ],
)
def test_other_formats_that_are_something_else_are_told(tmp_path: Path, name: str, content: Any, message: str) -> None:
    _refused(tmp_path / name, content, message)


def test_a_parquet_file_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "b"]), path)
    _refused(path, path.read_bytes(), "'a' is there twice", rename={"b": "a"})


def test_a_tab_separates_the_fields_of_a_tsv_file(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("a\tb\n1\tx,y\n")
    assert _read(tmp_path / "rows.tsv").to_pydict() == {"a": [1], "b": ["x,y"]}
    _refused(tmp_path / "wrong.tsv", "a,b\n1,2\n", "declare `delimiter: ','`")


def test_a_file_without_a_header_is_read_by_declared_names(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("5.1,setosa\n4.9,virginica\n")
    assert _read(tmp_path / "rows.csv", columns=["length", "kind"]).to_pydict() == {
        "length": [5.1, 4.9], "kind": ["setosa", "virginica"],
    }  # fmt: skip
    _refused(
        tmp_path / "rows.csv", "1,2\n", "row 1 has 2 fields, the source's `columns` name 3", columns=["a", "b", "c"]
    )
    _refused(tmp_path / "rows.csv", "1,a\nx,b\n", "row 2, column n: 'x' is not a int", columns=["n", "s"],
             types={"n": "int"})  # fmt: skip


@pytest.mark.parametrize("header", ["0,1,2", "2019,2020,2021", "x1,2,3"])
def test_names_that_are_numbers_are_a_header_where_they_count_or_words_are_beside_them(
    tmp_path: Path, header: str
) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\n5,6,7\n")
    assert _read(tmp_path / "rows.csv").column_names == header.split(",")


def test_utf_16_latin_1_and_a_byte_order_mark_are_read_as_declared(tmp_path: Path) -> None:
    for encoding, declared in (("utf-16", "utf-16"), ("utf-8-sig", "utf-8"), ("latin-1", "latin-1")):
        (tmp_path / "rows.csv").write_bytes("naïve,b\ncafé,2\n".encode(encoding))
        assert _read(tmp_path / "rows.csv", encoding=declared).to_pydict() == {"naïve": ["café"], "b": [2]}


def test_what_pandas_notes_to_be_a_nameless_index_is_no_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2]}, index=[5, 7])
    frame.to_parquet(tmp_path / "rows.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "rows.parquet").names
    assert _read(tmp_path / "rows.parquet").to_pydict() == {"a": [1, 2]}
    frame.to_csv(tmp_path / "rows.csv")
    assert _read(tmp_path / "rows.csv", rename={"": "row"}).to_pydict() == {"row": [5, 7], "a": [1, 2]}
    assert _read(tmp_path / "rows.csv", rename={"": "row"}, exclude=["row"]).to_pydict() == {"a": [1, 2]}


def test_a_declared_string_stays_text_whatever_the_header_is_called(tmp_path: Path) -> None:
    """The specimen: with a rename, a file whose header is already the new one read 00007 as 7."""
    for header in ("code", "Code"):
        (tmp_path / "rows.csv").write_text(f"{header},n\n00007,1\n")
        table = _read(tmp_path / "rows.csv", rename={"Code": "code"}, types={"code": "string"})
        assert table["code"].to_pylist() == ["00007"]
        (tmp_path / "rows.jsonl").write_text(json.dumps({header: "2018-01-01"}) + "\n")
        table = _read(tmp_path / "rows.jsonl", rename={"Code": "code"}, types={"code": "string"})
        assert table["code"].to_pylist() == ["2018-01-01"]


def test_numbers_of_a_declared_text_column_in_json_are_their_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"code": 7, "n": 1}\n{"code": "007", "n": 2}\n')
    assert _read(tmp_path / "rows.jsonl", types={"code": "string"})["code"].to_pylist() == ["7", "007"]


def test_names_and_text_are_trimmed_unless_a_setting_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name, work\nann, State-gov\n")
    assert _read(tmp_path / "rows.csv").to_pydict() == {"name": ["ann"], "work": ["State-gov"]}
    assert _read(tmp_path / "rows.csv", trim=False).to_pydict() == {"name": ["ann"], " work": [" State-gov"]}
    pq.write_table(pa.table({"work": [" State-gov ", "  "]}), tmp_path / "rows.parquet")
    assert _read(tmp_path / "rows.parquet").to_pydict() == {"work": ["State-gov", None]}


def test_two_files_of_one_period_with_different_types_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,s\n1,a\n")
    (tmp_path / "b.csv").write_text("x,s\nlow,b\n")
    with pytest.raises(UnreadablePartitions, match=r"column x is int in .*a\.csv and string in .*b\.csv; declare"):
        list(sources.read_partitions(files(tmp_path / "*.csv"), ["all"]))
    (tmp_path / "b.csv").write_text("x,s\n0.5,b\n")
    ((_, table),) = sources.read_partitions(files(tmp_path / "*.csv"), ["all"])
    assert table["x"].to_pylist() == [1.0, 0.5]


def test_a_header_without_rows_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    assert (_read(tmp_path / "rows.csv").column_names, _read(tmp_path / "rows.csv").num_rows) == (["a", "b"], 0)


def test_a_row_that_is_wrong_is_counted_with_the_header(tmp_path: Path) -> None:
    _refused(tmp_path / "rows.csv", "a,b\n1,2\n3\n", "row 3 has 1 fields, the header 2")
    _refused(tmp_path / "rows.csv", "a,b\n1,2\n3,x\n", "row 3, column b: 'x' is not a int", types={"b": "int"})
    _refused(tmp_path / "rows.csv", 'a,b\n1,"x\ny"\nz,3\n', "row 3, column a: 'z' is not a int", types={"a": "int"})
