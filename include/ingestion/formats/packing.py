"""The bytes of a text file: unpacked from gzip, bzip2, xz or zstd, whose first bytes count, and as UTF-8."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from include.ingestion.formats.raw import HEAD, one_line
from include.ingestion.values import Unreadable

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Packing:
    """A program that packs a file: how what it makes begins, and how all of it, or the part that came, is unpacked."""

    name: str
    magic: bytes
    whole: Callable[[bytes], bytes]
    head: Callable[[bytes], bytes]


def _zstd(raw: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
        return bytes(stream.read())


def _zstd_head(raw: bytes) -> bytes:
    out = io.BytesIO()
    with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream, contextlib.suppress(OSError):
        while out.tell() < HEAD and (chunk := stream.read(1 << 16)):  # until what came ends
            out.write(chunk)
    return out.getvalue()


PACKINGS = (
    Packing("gzip", rb"\x1f\x8b", gzip.decompress, lambda raw: zlib.decompressobj(wbits=31).decompress(raw, HEAD)),
    Packing("bzip2", rb"BZh[1-9]1AY&SY", bz2.decompress, lambda raw: bz2.BZ2Decompressor().decompress(raw, HEAD)),
    Packing("xz", rb"\xfd7zXZ\0", lzma.decompress, lambda raw: lzma.LZMADecompressor().decompress(raw, HEAD)),
    Packing("zstd", rb"\x28\xb5\x2f\xfd", _zstd, _zstd_head),
)


def packing_of(raw: bytes) -> Packing | None:
    """The program that packed these bytes, if any."""
    return next((packing for packing in PACKINGS if re.match(packing.magic, raw)), None)


def unpacked(file: str, raw: bytes, *, whole: bool) -> bytes:
    """What is packed in a file, or the file itself. Of a `whole` file every byte must be right; of a head, the part
    that came."""
    packing = packing_of(raw)
    if packing is None:
        return raw
    try:
        found = packing.whole(raw) if whole or len(raw) < HEAD else packing.head(raw)
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, EOFError) or re.search("ended before|[Tt]runcated", str(error)):
            raise Unreadable(
                f"{file}: the {packing.name} is truncated: the file was not delivered whole; fetch it again"
            ) from error
        raise Unreadable(f"{file}: the {packing.name} is corrupt ({one_line(error)}); fetch it again") from error
    if twice := packing_of(found):
        raise Unreadable(f"{file}: packed twice, with {packing.name} and inside with {twice.name}; unpack it once")
    return found


def as_utf8(encoding: str, file: str, raw: bytes, *, whole: bool) -> bytes:
    """The text in UTF-8 without a byte order mark; of a head, without the half of a character at its end.

    Raises:
        Unreadable: it is not in that encoding, with the row of the first wrong byte.
    """
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    decoder = codecs.getincrementaldecoder(encoding)()
    out = io.BytesIO()
    for begin in range(0, len(raw), _CHUNK):
        chunk = raw[begin : begin + _CHUNK]
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=whole and begin + _CHUNK >= len(raw))
        except UnicodeDecodeError as error:
            at = max(begin - pending + error.start, 0)
            row = raw.count(b"\n", 0, at) + 1
            raise Unreadable(
                f"{file}: row {row}: byte 0x{raw[at]:02x} is not {encoding}; declare the `encoding`, such as latin-1"
            ) from error
        if not utf8:
            out.write(text.encode())
    return raw.removeprefix(codecs.BOM_UTF8) if utf8 else out.getvalue().removeprefix(codecs.BOM_UTF8)
