"""The served form of a model: one folder of plain data, its manifest, and the content hash that names it.

    manifest.json        what it is: model, task, inputs, output, metrics, and the SHA-256 of every other file
    preprocessing.json   what the features learned from the training part, as plain data
    model.onnx           the estimator
    booster.ubj          an estimator of trees once more, as XGBoost keeps them: for many rows, and for explanations
    explanation.json     how the estimator's score is taken apart into what each feature added
    definition.py        the model's Python features, where it has some: the very source that trained it
    golden.json          rows as a client sends them, with the answers that this version must give
    profile.json         the training set's distributions, with the bins that drift is measured in

Nothing in it is deserialised into code. It is written by training, and read by deployment, serving and monitoring.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1


class BadServedForm(ValueError):
    """A served form is incomplete, changed, or of a format that this version does not know."""


@dataclass(frozen=True)
class ServedForm:
    """A verified served form on local disk."""

    directory: Path
    manifest: dict[str, Any]
    content_hash: str

    def json(self, name: str) -> Any:
        """One of its JSON files."""
        return json.loads((self.directory / name).read_bytes())


def seal(directory: Path, manifest: dict[str, Any]) -> ServedForm:
    """Write the manifest over the files in `directory`, with their hashes; returns the verified form."""
    files = {
        p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }
    text = json.dumps({**manifest, "format": FORMAT, "files": files}, indent=1, sort_keys=True, allow_nan=False)
    (directory / MANIFEST).write_text(text, encoding="utf-8")
    return verify(directory)


def verify(directory: Path, content_hash: str | None = None) -> ServedForm:
    """Check that every file is there and is the one that was sealed.

    The content hash is the SHA-256 of the manifest's bytes, which hold the hash of every other file.

    Raises:
        BadServedForm: naming the file that is missing, changed or unknown.
    """
    try:
        raw = (directory / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadServedForm(f"{directory}: no readable {MANIFEST} ({error})") from error
    found = hashlib.sha256(raw).hexdigest()
    if content_hash is not None and found != content_hash:
        raise BadServedForm(f"{directory}: content hash {found[:12]}… is not the recorded {content_hash[:12]}…")
    if manifest.get("format") != FORMAT:
        raise BadServedForm(f"{directory}: format {manifest.get('format')!r}; this program knows {FORMAT}")
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise BadServedForm(f"{directory}: {name} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise BadServedForm(f"{directory}: {name} is corrupt: its hash is not the manifest's")
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    if extra := present - set(files) - {MANIFEST}:
        raise BadServedForm(f"{directory}: unknown file {sorted(extra)[0]}")
    return ServedForm(directory, manifest, found)
