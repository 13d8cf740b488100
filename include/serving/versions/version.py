"""A version of a model, and a model's champion."""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[str, str]
"""Model and content hash: equal contents are one thing in memory, whatever their versions."""


@dataclass(frozen=True)
class Version:
    """A version of a model: what it is called, and where its served form lies."""

    model: str
    version: int
    content_hash: str
    url: str
    bento: str


@dataclass(frozen=True)
class Champion(Version):
    """A row of the `champions` table."""

    ledger_id: int


def key(version: Version) -> Key:
    """What a version is in memory."""
    return version.model, version.content_hash
