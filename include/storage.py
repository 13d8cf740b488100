"""Tables and files on local disk or object storage, by URL: every write is atomic.

A URL is a directory path or anything fsspec knows (`s3://bucket/key`). Local writes go to a temporary file beside the
target, are synced, and renamed; object stores publish an object only when its upload is complete. So no reader
ever sees half a file, and a rerun replaces the same name by the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

MINIMUM_FREE_BYTES = 256 * 1024 * 1024


class StorageError(OSError):
    """A file is missing, changed, or cannot be written; the message says which and what to do."""


class ChangedFile(StorageError):
    """A file is not the one that was recorded: its hash differs."""


@dataclass(frozen=True)
class Stored:
    """What was written: where, and the SHA-256 of its bytes."""

    url: str
    sha256: str
    size: int


def join(base: str, *parts: str) -> str:
    """`base` and `parts`, joined by single slashes."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def is_local(url: str) -> bool:
    """Whether the URL is a path on this machine."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path behind a local URL."""
    return Path(url.removeprefix("file://"))


def _filesystem(url: str) -> Any:
    import fsspec

    protocol = url.split("://", 1)[0]
    options: dict[str, Any] = {}
    if protocol == "s3" and (endpoint := os.environ.get("MLOPS_S3_ENDPOINT_URL")):
        options["endpoint_url"] = endpoint
    return fsspec.filesystem(protocol, **options)


def ensure_space(directory: Path, size: int = 0, *, minimum: int = MINIMUM_FREE_BYTES) -> None:
    """Refuse to begin a write that the disk cannot hold.

    Raises:
        StorageError: fewer than `size` + `minimum` bytes are free.
    """
    existing = directory
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < size + minimum:
        raise StorageError(
            f"disk full: {directory} has {free / 1e6:.0f} MB free, {(size + minimum) / 1e6:.0f} MB are needed;"
            " nothing was written. Free some space, or set MLOPS_HOME to a larger disk"
        )


def write_bytes(url: str, data: bytes, *, reserve: int = MINIMUM_FREE_BYTES) -> Stored:
    """Write a whole file, atomically.

    Args:
        url: The file's.
        data: Its content.
        reserve: Bytes that must be free on a local disk afterwards; 0 for a small file that notes where something
            stands, without which things would stop that need no room.

    Raises:
        StorageError: they would not be free; nothing was written.
        OSError: it could not be written; what was there before is there.
    """
    digest = hashlib.sha256(data).hexdigest()
    if is_local(url):
        path = local_path(url)
        ensure_space(path.parent, len(data), minimum=reserve)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        _filesystem(url).pipe_file(url, data)
    return Stored(url, digest, len(data))


def write_private(path: Path, text: str) -> None:
    """Write a local file, atomically, that was never readable by anyone else, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(url: str, expect_sha256: str | None = None) -> bytes:
    """Read a whole file.

    Raises:
        StorageError: it is not there.
        ChangedFile: its hash is not `expect_sha256`.
    """
    try:
        data = local_path(url).read_bytes() if is_local(url) else bytes(_filesystem(url).cat_file(url))
    except FileNotFoundError as error:
        raise StorageError(f"{url}: there is no such file") from error
    if expect_sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != expect_sha256:
        raise ChangedFile(
            f"{url}: changed since it was recorded (SHA-256 {found[:12]}…, expected {expect_sha256[:12]}…);"
            " it is not used. Ingest or publish it again"
        )
    return data


def write_table(url: str, table: pa.Table) -> Stored:
    """Write one parquet file, atomically; equal tables give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", row_group_size=1 << 20)
    return write_bytes(url, sink.getvalue().to_pybytes())


def read_table(url: str, columns: list[str] | None = None, expect_sha256: str | None = None) -> pa.Table:
    """Read one parquet file; see `read_bytes` for the errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_bytes(url, expect_sha256)
    return pq.read_table(pa.BufferReader(data), columns=columns)


def exists(url: str) -> bool:
    """Whether there is such a file."""
    return local_path(url).exists() if is_local(url) else bool(_filesystem(url).exists(url))


def list_files(url: str) -> list[str]:
    """The names, relative to `url`, of all files below it, in order; empty when there is no such folder."""
    if is_local(url):
        root = local_path(url)
        return sorted(
            p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and not p.name.endswith(".tmp")
        )
    filesystem = _filesystem(url)
    filesystem.invalidate_cache()
    root_key = filesystem._strip_protocol(url).rstrip("/")
    names = (str(key)[len(root_key) + 1 :] for key in filesystem.find(url))
    return sorted(name for name in names if name and not name.endswith("/"))  # some stores list folders, too


def delete(url: str) -> None:
    """Remove a file or a folder; what is not there is no error."""
    if is_local(url):
        path = local_path(url)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    elif (filesystem := _filesystem(url)).exists(url):
        filesystem.rm(url, recursive=True)


def upload(directory: Path, url: str) -> list[Stored]:
    """Copy every file of a local folder below `url`; each file appears whole or not at all."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return [write_bytes(join(url, p.relative_to(directory).as_posix()), p.read_bytes()) for p in files]


def download(url: str, directory: Path) -> Path:
    """Copy every file below `url` into a local folder."""
    for name in list_files(url):
        write_bytes(str(directory / name), read_bytes(join(url, name)))
    return directory
