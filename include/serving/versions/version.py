"""A version of a model, and a model's champion."""

from __future__ import annotations

from dataclasses import dataclass


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
