"""The copies on disk, which several workers write and drop at once."""

from __future__ import annotations

import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from include.inference.served_form import BadServedForm
from include.serving.versions import disk_cache
from tests.include.serving.crafted import champion_of, craft


def test_workers_that_fetch_the_same_version_at_once_leave_one_whole_copy(tmp_path: Path) -> None:
    """Beside a damaged copy that all of them find."""
    crafted = craft(tmp_path / "form")
    form, folder = crafted.form, tmp_path / "copies"
    place = disk_cache.place(folder, champion_of(crafted, 1))
    for damaged in (False, True) * 5:
        if damaged:
            (place / "model.onnx").write_bytes(b"half")
        with ThreadPoolExecutor(8) as workers:
            fetched = list(
                workers.map(lambda _: disk_cache.fetch(str(form.directory), place, form.content_hash), range(8))
            )
        assert {found.content_hash for found in fetched} == {form.content_hash}
        assert [path.name for path in (folder / "trips").iterdir()] == [form.content_hash]
        assert (place / "model.onnx").read_bytes() == (form.directory / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc", "..", ".", "", ".hidden", "a\\b", "a\0b", "a b", "ä", "x\n", "x" * 200]
)
def test_a_name_that_is_a_path_leads_nowhere_and_deletes_nothing(tmp_path: Path, name: str) -> None:
    champion = champion_of(craft(tmp_path / "form"), 1)
    folder = tmp_path / "copies" / "here"
    for wrong in (dataclasses.replace(champion, model=name), dataclasses.replace(champion, content_hash=name)):
        with pytest.raises(BadServedForm, match="no name"):
            disk_cache.place(folder, wrong)
    for kept in ("one", "two", "three", "four"):
        (tmp_path / "copies" / "x" / kept).mkdir(parents=True)
    disk_cache.drop_old(folder, name, set())
    assert len(list((tmp_path / "copies" / "x").iterdir())) == 4


def test_what_a_killed_worker_left_is_dropped_and_what_another_writes_is_not(tmp_path: Path) -> None:
    names = ["used", "newest", "older", ".orphan.1", ".written.2"]
    for age, name in enumerate(names):
        (tmp_path / "trips" / name).mkdir(parents=True)
        os.utime(tmp_path / "trips" / name, (time.time() - age, time.time() - age))
    long_ago = time.time() - 2 * disk_cache.ORPHAN_SECONDS
    os.utime(tmp_path / "trips" / ".orphan.1", (long_ago, long_ago))
    disk_cache.drop_old(tmp_path, "trips", {"used"})
    assert {path.name for path in (tmp_path / "trips").iterdir()} == {"used", "newest", ".written.2"}
    disk_cache.drop_old(tmp_path, "unknown", set())
