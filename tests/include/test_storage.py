from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from include import storage
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["local", "fsspec"])
def base(request, tmp_path):
    """A folder on local disk, and one behind fsspec (its memory filesystem; S3 has tests of its own)."""
    return str(tmp_path / "data") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_what_is_written_is_read_back_with_its_hash(base):
    stored = storage.write_bytes(storage.join(base, "a", "b.txt"), b"hello")
    assert stored.size == 5
    assert storage.read_bytes(stored.url, stored.sha256) == b"hello"


def test_a_file_that_was_changed_is_refused_by_its_hash(base):
    """Promise 8."""
    stored = storage.write_bytes(storage.join(base, "x"), b"validated")
    storage.write_bytes(stored.url, b"swapped")
    with pytest.raises(storage.ChangedFile, match="changed since it was recorded"):
        storage.read_bytes(stored.url, stored.sha256)


def test_a_file_that_is_not_there_is_named(base):
    with pytest.raises(storage.StorageError, match="x: there is no such file"):
        storage.read_bytes(storage.join(base, "x"))


def test_a_second_write_replaces_the_first(base):
    url = storage.join(base, "x")
    storage.write_bytes(url, b"one")
    storage.write_bytes(url, b"two")
    assert storage.read_bytes(url) == b"two"
    assert storage.list_files(base) == ["x"]


def test_equal_tables_give_equal_bytes(base):
    """Promise 3: a rerun overwrites a partition with the same bytes."""
    tables = [
        pa.table({"a": [1, 2], "b": ["x", None]}),
        pa.table({"a": [1, 2], "b": ["x", None]}).replace_schema_metadata({"k": "v"}),
    ]
    first, second = (storage.write_table(storage.join(base, f"{n}.parquet"), t) for n, t in enumerate(tables))
    assert first.sha256 == second.sha256
    assert storage.read_table(first.url, expect_sha256=first.sha256).equals(tables[0])
    assert storage.read_table(first.url, ["b"]).column_names == ["b"]


def test_files_are_listed_below_a_folder_in_order(base):
    for name in ("b/2", "a", "b/1"):
        storage.write_bytes(storage.join(base, "in", name), b"")
    storage.write_bytes(storage.join(base, "outside"), b"")
    assert storage.list_files(storage.join(base, "in")) == ["a", "b/1", "b/2"]


def test_a_folder_that_is_not_there_is_empty(base):
    assert storage.list_files(storage.join(base, "nothing")) == []


def test_deleting_a_file_a_folder_and_nothing(base):
    for name in ("f/1", "f/2", "g"):
        storage.write_bytes(storage.join(base, name), b"x")
    storage.delete(storage.join(base, "f"))
    storage.delete(storage.join(base, "g"))
    storage.delete(storage.join(base, "nothing"))
    assert not storage.exists(storage.join(base, "g"))
    assert storage.list_files(storage.join(base, "f")) == []


def test_a_folder_goes_up_and_comes_down(base, tmp_path):
    (tmp_path / "here" / "deep").mkdir(parents=True)
    (tmp_path / "here" / "a").write_bytes(b"1")
    (tmp_path / "here" / "deep" / "b").write_bytes(b"2")
    storage.upload(tmp_path / "here", storage.join(base, "there"))
    back = storage.download(storage.join(base, "there"), tmp_path / "back")
    assert {p.relative_to(back).as_posix(): p.read_bytes() for p in back.rglob("*") if p.is_file()} == {
        "a": b"1",
        "deep/b": b"2",
    }


@pytest.mark.parametrize(
    ("parts", "joined"), [(("a/", "/b/", "c"), "a/b/c"), (("s3://k/", "x"), "s3://k/x"), (("/tmp", "x"), "/tmp/x")]
)
def test_parts_are_joined_by_single_slashes(parts, joined):
    assert storage.join(*parts) == joined


def test_a_file_url_is_local(tmp_path):
    storage.write_bytes(f"file://{tmp_path}/x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_a_disk_that_is_too_full_is_told_before_anything_is_written(tmp_path):
    """Promise 49."""
    with pytest.raises(storage.StorageError, match=r"disk full: .* nothing was written"):
        storage.ensure_space(tmp_path / "not" / "yet", 1 << 60)
    storage.ensure_space(tmp_path / "not" / "yet", 1, minimum=0)


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    storage.write_bytes(str(tmp_path / "x"), b"old")

    def broken(descriptor):
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    """Promise 2: whoever reads, finds one of the two contents, never half of one."""
    code = (
        "import sys; from include import storage\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    for letter in (b'a', b'b'): storage.write_bytes(sys.argv[1], letter * 3_000_000)"
    )
    target = tmp_path / "x"
    for milliseconds in (20, 45, 70, 95, 120, 145):
        child = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE)
        child.stdout.readline()
        until(target.exists, pause=0.005)
        time.sleep(milliseconds / 1000)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert target.read_bytes() in (b"a" * 3_000_000, b"b" * 3_000_000)
        assert storage.list_files(str(tmp_path)) == ["x"], "what a killed writer left is not taken for data"
