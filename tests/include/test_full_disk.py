"""Promises 41 and 49, on a file system that is really full: nothing is half-written, and all goes on afterwards.

`/dev/full` refuses each write; a file system that fills takes half of one, makes empty files, and then has room again.
Mounting one needs root: elsewhere these tests are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include import alerting, configuration, database, storage
from include.alerting import table
from include.features.versions.workspace import open_workspace
from include.home import Home
from include.inference import served_form
from include.serving.prediction_log import segments
from include.serving.prediction_log.log import LogFull
from include.serving.versions import disk_cache
from include.serving.versions.response_encoder import prediction_ids
from include.serving.versions.version import Champion
from tests.dags import airflow_home
from tests.include.serving.prediction_log.test_log import commit, copied, lines, on_a_loop, running
from tests.waiting import eventually

airflow_home.for_this_process()

SIZE = storage.MINIMUM_FREE_BYTES + 32 * 1024 * 1024


class Disk:
    """A file system of its own that can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self, leave: int = 0) -> None:
        """Take all room but `leave` bytes."""
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, os.statvfs(self.folder).f_bavail * 4096 - leave)
        assert os.statvfs(self.folder).f_bavail * 4096 <= leave

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink()

    def files(self) -> set[str]:
        """All that is there, as paths from its root."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path != self._filler)
        return {str(path.relative_to(self.folder)) for path in found}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small file system cannot be mounted here: there is no `mount`")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# ------------------------------------------------------------------------------------------------ files


WRITERS: dict[str, Callable[[Path, bytes], object]] = {
    "a partition, a snapshot, a report": lambda path, data: storage.write_bytes(str(path), data),
    "a note of where something stands": lambda path, data: storage.write_bytes(str(path), data, reserve=0),
    "a file of secrets": lambda path, data: storage.write_private(path, data.decode()),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("leave", [0, 8192])
def test_a_file_is_as_it_was_or_as_it_is_to_be_and_nothing_else_is_left(
    disk: Disk, write: Callable[[Path, bytes], object], leave: int
) -> None:
    path = disk.folder / "file"
    write(path, b"before")
    disk.fill(leave)
    with pytest.raises(OSError, match=r"disk full|No space left"):
        write(path, b"x" * 100_000)
    assert path.read_bytes() == b"before"
    assert disk.files() == {"file"}
    disk.free()
    write(path, b"y" * 100_000)
    assert path.read_bytes() == b"y" * 100_000


def test_a_partition_is_refused_while_there_is_room_for_what_must_go_on(disk: Disk) -> None:
    disk.fill(leave=100 * 1024 * 1024)
    with pytest.raises(storage.StorageError, match=r"has 105 MB free, .* are needed; nothing was written"):
        storage.write_bytes(str(disk.folder / "day.parquet"), b"rows")
    storage.write_bytes(str(disk.folder / "position"), b"12", reserve=0)
    assert disk.files() == {"position"}


def test_features_begin_no_work_that_the_disk_cannot_hold(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(storage.StorageError, match="disk full"), open_workspace(disk.folder, "trips"):
        pytest.fail("it began")
    assert disk.files() == set()
    disk.free()
    with open_workspace(disk.folder, "trips") as workspace:
        assert workspace.is_dir()


def test_an_edit_of_params_yaml_waits_for_room_and_what_is_in_force_stays(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.orchestration.bundle import SnapshotBundle

    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(disk.folder / "bundles"))
    monkeypatch.setenv("MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    monkeypatch.setenv("MLOPS_DATA_URL", str(disk.folder / "data"))
    (tmp_path / "params.yaml").write_text("one: 1\n")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "train.py").write_text("first = True\n")
    processor = SnapshotBundle(folder=str(tmp_path / "dags"), name="dags-folder", version=None)
    processor.initialize()
    before = configuration.record(str(disk.folder / "data"))
    disk.fill()
    (tmp_path / "dags" / "train.py").write_text("first = False\n")
    for _ in range(2):
        with pytest.raises(OSError, match="disk full"):
            processor.refresh()
        assert configuration.record(str(disk.folder / "data")) == before
        assert (processor.path / "train.py").read_text() == "first = True\n"
    disk.free()
    processor.refresh()
    assert (processor.path / "train.py").read_text() == "first = False\n"


def test_a_copy_of_a_served_form_is_whole_or_not_there(disk: Disk, tmp_path: Path) -> None:
    source = tmp_path / "served"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"m" * 200_000)
    content_hash = served_form.seal(source, {}).content_hash
    place = disk.folder / "serving" / "trips" / content_hash
    disk.fill(leave=64 * 1024)
    with pytest.raises(OSError, match=r"disk full|No space left"):
        disk_cache.fetch(str(source), place, content_hash)
    assert not any("model.onnx" in name for name in disk.files())
    disk.free()
    assert disk_cache.fetch(str(source), place, content_hash).content_hash == content_hash


def test_which_champion_answered_last_is_noted_on_a_disk_that_is_too_full_for_data(disk: Disk) -> None:
    disk.fill(leave=64 * 1024)
    champion = Champion("trips", 3, "hash", "url", "trips:3", 7)
    disk_cache.remember(disk.folder, [champion])
    assert list(disk_cache.remembered(disk.folder)) == [champion]


# ------------------------------------------------------------------------------------------------ alerts


def test_alerts_wait_until_they_can_be_written_and_no_line_is_half(disk: Disk) -> None:
    alerting.send(disk.folder, "first", "there is room")
    disk.fill()
    with Home(disk.folder).alerts.open("ab") as file:  # up to the end of its last block
        file.write(b" " * (4096 - Home(disk.folder).alerts.stat().st_size - 20) + b"\n")
    for number in range(3):
        alerting.send(disk.folder, "waits", f"number {number}")
    whole = Home(disk.folder).alerts.read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"\n") for line in whole)
    disk.free()
    alerting.write_waiting()
    found = [json.loads(line) for line in Home(disk.folder).alerts.read_text().splitlines() if line.strip()]
    assert [line["message"] for line in found] == ["there is room", "number 0", "number 1", "number 2"]


def test_alerts_reach_postgresql_from_a_full_disk(disk: Disk, database_url: str) -> None:
    engine = database.connect(database_url)
    alerting.send(disk.folder, "first", "there is room")
    table.copy(engine, disk.folder)
    alerting.send(disk.folder, "second", "there is room")
    disk.fill()
    for _ in range(2):
        table.copy(engine, disk.folder)
    disk.free()
    table.copy(engine, disk.folder)
    assert sorted(each.event for each in table.listed(engine)) == ["first", "second"]
    engine.dispose()


# ------------------------------------------------------------------------------------------------ the prediction log


@pytest.mark.parametrize("when_full", ["count", "refuse"])
@on_a_loop
async def test_the_prediction_log_keeps_to_its_policy_and_goes_on_by_itself(
    disk: Disk, database_url: str, when_full: str
) -> None:
    """Full when the service starts: nothing can be made, not even the slot."""
    disk.fill()
    folder = Home(disk.folder).spool
    async with running(folder, database_url, when_full=when_full, home=disk.folder) as log:
        await eventually(lambda: bool(log.state()["problem"]))
        for _ in range(2):
            answer = await commit(log, lines(prediction_ids(2)))
            assert isinstance(answer, LogFull) is (when_full == "refuse")
        assert "No space left" in log.state()["problem"]
        counter = log.metrics.refused if when_full == "refuse" else log.metrics.dropped
        assert counter._value.get() == 4
        disk.free()
        await eventually(lambda: log.state()["problem"] is None)
        kept = prediction_ids(2)
        assert await commit(log, lines(kept)) is None
        await eventually(lambda: copied(database_url) == kept)
        await eventually(Home(disk.folder).alerts.exists)
    assert [path.name for path in folder.glob("slot-*")] == ["slot-0"]
    assert not list(folder.glob(".id-*"))
    [told] = [json.loads(line) for line in Home(disk.folder).alerts.read_text().splitlines()]
    assert told["event"] == "prediction_log_full"


@on_a_loop
async def test_the_prediction_log_loses_nothing_that_it_acknowledged_when_the_disk_fills(
    disk: Disk, database_url: str
) -> None:
    """Full while it runs, with PostgreSQL away: segments that are there are used to their end."""
    folder, acknowledged = Home(disk.folder).spool, []
    nowhere = "postgresql://127.0.0.1:1/nowhere"
    async with running(folder, nowhere, when_full="refuse", spool_megabytes=16) as log:
        acknowledged += (ids := prediction_ids(1))
        assert await commit(log, lines(ids)) is None
        await eventually(lambda: log._next is not None)
        disk.fill()
        refused = 0
        while not refused:
            content = lines(ids := prediction_ids(2000))
            if await commit(log, content) is None:
                acknowledged += ids
            else:
                refused += 1
        disk.free()
        await eventually(lambda: log.state()["problem"] is None or log._full is None)
        acknowledged += (ids := prediction_ids(1))
        assert await commit(log, lines(ids)) is None
    async with running(folder, database_url) as log:
        await eventually(lambda: len(copied(database_url)) >= len(acknowledged), seconds=60)
    assert copied(database_url) == acknowledged


def test_lines_that_postgresql_refused_are_kept_whole(disk: Disk) -> None:
    segments.store_rejected(disk.folder, "labels", [b"first\n"])
    disk.fill()
    many = [b"%05d of many\n" % number for number in range(1000)]
    with pytest.raises(OSError, match="No space left"):
        segments.store_rejected(disk.folder, "labels", many)
    assert (disk.folder / "rejected-labels").read_bytes() == b"first\n"
    disk.free()
    segments.store_rejected(disk.folder, "labels", many)
    assert (disk.folder / "rejected-labels").read_bytes() == b"first\n" + b"".join(many)


def test_a_subject_is_not_half_forgotten_on_a_full_disk(disk: Disk) -> None:
    (slot := disk.folder / "slot-0").mkdir()
    segments.folder_id(disk.folder)
    segments.store_rejected(slot, "labels", [b"mine\n", *[b"%05d other\n" % number for number in range(1000)]])
    before = (slot / "rejected-labels").read_bytes()
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        segments.erase(disk.folder, {}, lambda table, line: line == b"mine\n")
    assert (slot / "rejected-labels").read_bytes() == before
    disk.free()
    assert segments.erase(disk.folder, {}, lambda table, line: line == b"mine\n") == 1
    assert b"mine" not in (slot / "rejected-labels").read_bytes()
    assert not [name for name in disk.files() if Path(name).name.startswith(".rejected")]
