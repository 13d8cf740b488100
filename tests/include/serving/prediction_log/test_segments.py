from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from include.serving.prediction_log import disk_writer, segments
from include.serving.prediction_log.segments import BLOCK, HEADER, Position

IMPORTS = "import sys, time; from pathlib import Path; from include.serving.prediction_log import segments as spool\n"
TAKE = IMPORTS + "print(spool.take_slot(Path(sys.argv[1])).folder.name, flush=True); time.sleep(60)"
NAME = IMPORTS + "print(spool.folder_id(Path(sys.argv[1])))"


def segment_of(groups: list[bytes], number: int = 7, size: int = 64 * 1024) -> tuple[bytearray, list[int]]:
    """A segment's content with a frame for each group, and where each ends."""
    data, end, rows, ends = bytearray(size), 0, 0, []
    for lines in groups:
        count = lines.count(b"\n")
        told: dict[str, Any] = {
            "table": "predictions",
            "rows": count,
            "number": number,
            "millis": 1000 + rows,
            "before": rows,
        }
        end = segments.write_frame(memoryview(data), end, [lines], **told)
        rows += count
        ends.append(end)
    return data, ends


def lines_in(data: bytes | bytearray, number: int = 7) -> list[bytes]:
    return [bytes(frame.lines) for frame in segments.frames(memoryview(data), number)]


GROUPS = [b"first\n", b"second\nthird\n", b"x" * 5000 + b"\n", b"last\n"]


def test_frames_are_found_as_they_were_written_up_to_the_zeros():
    data, ends = segment_of(GROUPS)
    found = list(segments.frames(memoryview(data), 7))
    assert [bytes(frame.lines) for frame in found] == GROUPS
    assert [frame.end for frame in found] == ends
    assert [(frame.table, frame.rows, frame.before) for frame in found][1] == ("predictions", 2, 1)


def test_reading_may_begin_at_any_frame():
    data, ends = segment_of(GROUPS)
    found = list(segments.frames(memoryview(data)[ends[1] :], 7, ends[1]))
    assert [(frame.start, frame.end) for frame in found] == [(ends[1], ends[2]), (ends[2], ends[3])]


def test_a_torn_tail_is_never_read_and_everything_before_it_is():
    data, ends = segment_of(GROUPS)
    for cut in range(ends[2], ends[3]):
        torn = data[:cut] + bytes(len(data) - cut)
        expected = GROUPS if torn == data else GROUPS[:3]
        assert lines_in(torn) == expected


def test_no_damage_makes_up_a_frame_and_what_is_whole_is_found_beyond_it():
    chance = random.Random(5)
    data, ends = segment_of(GROUPS)
    for _ in range(300):
        rotten, at = bytearray(data), chance.randrange(ends[1])
        rotten[at] ^= 1 << chance.randrange(8)
        found = lines_in(rotten)
        assert found[-2:] == GROUPS[2:]
        assert set(found) <= set(GROUPS)
        assert len(found) == 3


def test_what_a_segment_held_in_an_earlier_life_is_not_its_content():
    data, _ = segment_of(GROUPS, number=7)
    assert lines_in(data, number=8) == []


def written(slot: segments.SpoolDir, number: int, groups: list[bytes]) -> None:
    slot.path(number).write_bytes(segment_of(groups, number)[0])


def test_sealing_cuts_the_tail_off_and_numbers_only_grow(tmp_path):
    slot = segments.take_slot(tmp_path)
    assert slot.seal() == (1, 0)
    data, ends = segment_of(GROUPS, 1)
    data[ends[3] - 2] ^= 1  # torn
    slot.path(1).write_bytes(data)
    slot.path(2).write_bytes(bytes(BLOCK))  # made ahead
    assert slot.seal() == (2, 4)
    assert [(number, path.stat().st_size) for number, path in slot.segments()] == [(1, ends[2])]


def test_a_number_is_not_given_again_after_its_segment_was_drained(tmp_path):
    slot = segments.take_slot(tmp_path)
    written(slot, 4, GROUPS)
    slot.path(5).write_bytes(bytes(BLOCK))
    slot.drop(4)  # its worker was killed when it had just gone on to 5
    assert slot.seal()[0] == 6
    assert slot.seal()[0] == 6
    written(slot, 6, GROUPS)
    slot.clear()
    assert slot.seal()[0] == 7
    assert [path.stat().st_size for _, path in slot.segments()] == [0]


def test_each_process_has_a_slot_of_its_own_and_a_killed_ones_is_free(tmp_path):
    children = [
        subprocess.Popen([sys.executable, "-c", TAKE, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        names = {child.stdout.readline().strip() for child in children}
        assert names == {"slot-0", "slot-1"}
        own = segments.take_slot(tmp_path)
        assert own.folder.name == "slot-2"
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert segments.take_slot(tmp_path).folder.name == "slot-0"
    own.release()
    assert len({slot.name.split("/")[0] for slot in (own, segments.take_slot(tmp_path))}) == 1


def test_only_slots_with_segments_that_nobody_has_are_abandoned(tmp_path):
    own, empty, left = (segments.take_slot(tmp_path) for _ in range(3))
    written(own, 1, GROUPS)
    written(left, 1, GROUPS)
    empty.release()
    left.release()
    found = list(segments.abandoned_slots(tmp_path))
    assert [slot.folder.name for slot in found] == ["slot-2"]


def test_a_segment_is_zeros_also_where_a_drained_one_is_used_again(tmp_path):
    slot = segments.take_slot(tmp_path)
    path = segments.make_segment(slot, 1, 10_000, quota=10**6)
    assert path.read_bytes() == bytes(3 * BLOCK)
    path.write_bytes(b"someone's inputs" * 1000)
    inode = path.stat().st_ino
    slot.drop(1)
    path = segments.make_segment(slot, 2, 10_000, quota=10**6)
    assert path.read_bytes() == bytes(3 * BLOCK)
    assert path.stat().st_ino == inode
    assert slot.segments() == [(2, path)]


def test_the_quota_counts_the_slots_of_all_workers(tmp_path):
    one, other = segments.take_slot(tmp_path), segments.take_slot(tmp_path)
    segments.make_segment(one, 1, 10 * BLOCK, quota=16 * BLOCK)
    with pytest.raises(segments.NoRoom, match=r"of at most 0 MB \(service.spool_megabytes\)"):
        segments.make_segment(other, 1, 10 * BLOCK, quota=16 * BLOCK)
    assert other.segments() == []
    segments.make_segment(other, 1, 6 * BLOCK, quota=16 * BLOCK)
    assert segments.used_bytes(tmp_path) == 16 * BLOCK


def test_the_folders_name_is_made_once_whoever_comes_first(tmp_path):
    children = [
        subprocess.Popen([sys.executable, "-c", NAME, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    names = {child.communicate()[0].strip() for child in children}
    assert names == {segments.folder_id(tmp_path)}
    assert len(names.pop()) == 32


def test_positions_are_ordered_by_segment_then_offset():
    assert Position(1, 900) < Position(2, 0) < Position(2, HEADER.size)


@pytest.mark.parametrize(
    "kind", [disk_writer.BufferedWriter, disk_writer.ThreadWriter, partial(disk_writer.ThreadWriter, direct=True)]
)
def test_a_writer_writes_its_buffer_where_it_is_told_and_says_so_on_the_loop(kind, tmp_path):
    """The contract of all writers."""
    if isinstance(kind, partial) and not disk_writer._takes_direct(tmp_path):
        pytest.skip("this file system lets no writes past the cache")
    path = segments.make_segment(segments.take_slot(tmp_path), 1, 300 * BLOCK, quota=10**8)

    async def write() -> None:
        loop = asyncio.get_running_loop()
        outcomes: asyncio.Queue[Any] = asyncio.Queue()
        writer = kind(outcomes.put_nowait)
        writer.listen(loop)
        descriptor = writer.open(path)
        writer.buffer[:5] = b"hello"
        writer.write(descriptor, BLOCK, 2 * BLOCK)
        assert await outcomes.get() is None
        writer.reserve(200 * BLOCK)  # a large group: the first block's content stays
        writer.buffer[200 * BLOCK - 3 : 200 * BLOCK] = b"end"
        writer.write(descriptor, 200 * BLOCK, 10 * BLOCK)
        assert await outcomes.get() is None
        os.close(descriptor)
        reading = os.open(path, os.O_RDONLY)
        writer.write(reading, BLOCK, 0)
        error = await outcomes.get()
        assert isinstance(error, OSError)
        os.close(reading)
        writer.write(writer.open(path), BLOCK, 299 * BLOCK)  # closing waits for it
        writer.close()

    asyncio.run(write())
    content = path.read_bytes()
    assert content[2 * BLOCK : 2 * BLOCK + 6] == b"hello\0"
    assert content[10 * BLOCK : 10 * BLOCK + 5] == b"hello"
    assert content[210 * BLOCK - 3 : 210 * BLOCK + 1] == b"end\0"
    assert content[299 * BLOCK : 299 * BLOCK + 5] == b"hello"


def test_a_policy_has_its_writer_and_the_folder_says_how_it_works(tmp_path, monkeypatch):
    def refuses(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return opened(path, flags, *more)

    opened = os.open
    assert isinstance(disk_writer.writer(tmp_path, "interval", lambda error: None), disk_writer.BufferedWriter)
    always = disk_writer.writer(tmp_path, "always", lambda error: None)
    assert isinstance(always, disk_writer.ThreadWriter)
    assert always.cached is not disk_writer._takes_direct(tmp_path)
    monkeypatch.setattr(os, "open", refuses)
    assert disk_writer.writer(tmp_path, "always", lambda error: None).cached
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "probe").mkdir()
    with pytest.raises(OSError, match="probe"):
        disk_writer.writer(tmp_path, "always", lambda error: None)
