"""The copies of served forms on local disk, so that the service starts while everything behind it is down.

    <home>/serving/champions.json              which version of each model answered last: replaced atomically
    <home>/serving/<model>/<content hash>/     its served form, and the one before it

Several workers share the folder. Each writes a copy under a name of its own, and renames it under a lock; of two that
do so at once the second finds the first one's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from include import storage
from include.inference import served_form
from include.serving.versions.version import Champion, Version

CHAMPIONS, LOCK = "champions.json", ".lock"
MAXIMUM_COPIES = 2
ORPHAN_SECONDS = 3600.0
"""The age at which a half-written copy is nobody's: its worker was killed."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}").fullmatch
_NAMES = "letters, digits, and _ . - after the first"

log = logging.getLogger("mlops.serving")


def place(folder: Path, version: Version) -> Path:
    """Where the copy of a version lies below the folder of all copies.

    Raises:
        BadServedForm: its model's name, or its hash, would lead out of that folder, or to another model's copies.
    """
    for name in (version.model, version.content_hash):
        if not _NAME(name):
            raise served_form.BadServedForm(f"{name[:80]!r} is no name of a model or of its content: {_NAMES}")
    return folder / version.model / version.content_hash


def remembered(folder: Path | None) -> Iterator[Champion]:
    """The champions that answered last; none where the list cannot be read, which is logged."""
    if folder is None or not (folder / CHAMPIONS).is_file():
        return
    try:
        entries = [Champion(**entry) for entry in json.loads((folder / CHAMPIONS).read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        fields = {"file": str(folder / CHAMPIONS), "reason": str(error)}
        log.warning("last good copies unreadable", extra={"fields": fields})
        return
    yield from entries


def remember(folder: Path, champions: Iterable[Champion]) -> None:
    """Replace the list of the champions that answer."""
    text = json.dumps([asdict(champion) for champion in champions], indent=1)
    storage.write_bytes(str(folder / CHAMPIONS), text.encode(), reserve=0)


def drop_old(folder: Path, model: str, used: Collection[str]) -> None:
    """Delete the copies of a model but those in use, by content hash, and the newest before them."""
    if not _NAME(model):  # it has none, and what lies there is not ours
        return
    with contextlib.suppress(FileNotFoundError):  # there is none yet, or another worker drops them at this moment
        ages = {path: path.stat().st_mtime for path in (folder / model).iterdir() if path.is_dir()}
        whole = [path for path in ages if not path.name.startswith(".") and path.name not in used]
        whole.sort(key=ages.__getitem__, reverse=True)
        orphaned = time.time() - ORPHAN_SECONDS
        halves = [path for path, age in ages.items() if path.name.startswith(".") and age < orphaned]
        for old in [*whole[MAXIMUM_COPIES - 1 :], *halves]:
            shutil.rmtree(old, ignore_errors=True)


def write_bundle(folder: Path, form: served_form.ServedForm, champion: Champion) -> None:
    """Lay a served form down as a Bento bundles it: what `Reconciler(bundled=folder)` starts with."""
    shutil.copytree(form.directory, place(folder, champion))
    (folder / CHAMPIONS).write_text(json.dumps([asdict(champion)], indent=1), encoding="utf-8")


def fetch(url: str, directory: Path, content_hash: str) -> served_form.ServedForm:
    """The served form at `url` as a verified local folder; a whole copy that is there already is used.

    Only the files that the manifest names are read, each by its hash; nothing else that lies at `url` is touched.

    Raises:
        StorageError: a file is missing or is not the one of its hash.
        BadServedForm: the manifest is of another version, or names a file outside the folder.
    """
    with contextlib.suppress(served_form.BadServedForm):
        return served_form.verify(directory, content_hash)
    raw = storage.read_bytes(storage.join(url, served_form.MANIFEST), content_hash)
    files: dict[str, str] = json.loads(raw)["files"]
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise served_form.BadServedForm(f"{url}: the manifest names {name!r}, which lies outside its folder")
    temporary = directory.with_name(f".{directory.name[:16]}.{uuid.uuid4().hex[:8]}")
    try:
        for name, sha256 in files.items():
            storage.write_bytes(str(temporary / name), storage.read_bytes(storage.join(url, name), sha256))
        storage.write_bytes(str(temporary / served_form.MANIFEST), raw)
        return _put(temporary, directory, content_hash)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(whole: Path, directory: Path, content_hash: str) -> served_form.ServedForm:
    """Give a whole copy its name, in place of a damaged one, unless another worker was quicker."""
    with (directory.parent.parent / LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        with contextlib.suppress(served_form.BadServedForm):
            return served_form.verify(directory, content_hash)
        shutil.rmtree(directory, ignore_errors=True)
        whole.rename(directory)
        return served_form.verify(directory, content_hash)
