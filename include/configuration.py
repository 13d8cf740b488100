"""What of params.yaml is in force: a part that is wrong never replaces one that was right.

An entry with a mistake (a source, a model, `service`, `keep`) stays as it last was right, and the others take effect.
An entry that was never right is left out. A file of which nothing can be made (half-written, unreadable, no YAML, a
section misspelt) leaves everything as it was. Every mistake is reported together with what follows from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from include import settings, storage
from include.home import IN_FORCE
from include.settings import Params, ParamsError

PARAMS = "params.yaml"
SECTIONS = ("sources", "models")
edited: frozenset[tuple[str, str]] | None = None
"""The entries of params.yaml that an edit changed, in a process that makes their DAGs first; elsewhere all are made."""
WHOLE = ("service", "keep")
"""Sections that are in force as a whole."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class InForce:
    """A configuration that loads."""

    params: Params
    text: str
    """A params.yaml without a mistake; what was right in the file keeps its lines."""
    mistakes: tuple[str, ...] = ()
    """A line for each mistake in the file: file, line, key, remedy, and what is in force instead."""


@dataclass(frozen=True)
class Record:
    """The version of the DAG files and params.yaml that was last found to load."""

    version: str = ""
    seen: str = ""
    """A digest of the files that it was made from, mistakes included."""
    mistakes: tuple[str, ...] = ()


def record(data_url: str) -> Record:
    """What the DAG processor last found, or an empty record before it has found anything."""
    url = _record_url(data_url)
    return _decoded(storage.read_bytes(url)) if storage.exists(url) else Record()


def write_record(data_url: str, found: Record) -> None:
    """Let every process of the platform know which version is in force."""
    content = {"version": found.version, "seen": found.seen, "mistakes": list(found.mistakes)}
    storage.write_bytes(_record_url(data_url), json.dumps(content, indent=1).encode())


def version_url(data_url: str, version: str) -> str:
    """Where the files of a version lie."""
    return storage.join(data_url, "dags", version)


def load(path: Path, data_url: str) -> InForce:
    """What is in force of a params.yaml, by the last version that loaded: for readers that must go on.

    Args:
        path: params.yaml.
        data_url: Where the versions lie; empty: go by the file alone.

    Raises:
        ParamsError: the file is wrong, and there is no earlier version.
    """
    version = record(data_url).version if data_url else ""
    url = storage.join(version_url(data_url, version), PARAMS) if version else ""
    before = storage.read_bytes(url).decode() if url and storage.exists(url) else None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if before is None:
            settings.load_params(path)  # raises, in words
        return InForce(settings.parse_params(before or ""), before or "", (unreadable(path.name, error),))
    return in_force(text, before, name=path.name)


def unreadable(name: str, error: OSError | UnicodeDecodeError) -> str:
    """The line about a file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 text, at byte {error.start}"
    return f"{name}: cannot be read ({reason}); what was in force before stays"


def in_force(text: str, before: str | None, name: str = PARAMS) -> InForce:
    """What is in force when `text` replaces `before`.

    Args:
        text: The new params.yaml.
        before: The one in force until now, which loads; None when there is none.
        name: The file's, for messages.

    Raises:
        ParamsError: nothing can be made of `text`, and there is no `before`.
    """
    earlier = _sections(before)
    steps: dict[Key, int] = {}
    mistakes: list[tuple[str, Key]] = []
    while True:
        try:
            params = settings.parse_params(text, name)
            return InForce(params, text, tuple(f"{line}; {_outcome(key, steps[key])}" for line, key in mistakes))
        except ParamsError as error:
            lines = str(error).splitlines()
            entries = [_entry(key) for key in error.keys] or [()]
            if not all(entries) or any(steps.get(entry, 0) >= len(_STEPS) for entry in entries):
                return _as_before(error, [line for line, _ in mistakes] + lines, before, name)
            new = [entry for entry in dict.fromkeys(entries) if entry not in steps]
            mistakes += [(line, key) for line, key in zip(lines, entries, strict=True) if key in new]
            for entry in dict.fromkeys(entries):
                text, steps[entry] = _mend(text, entry, earlier, steps.get(entry, 0))


def revert(text: str, key: Key, before: str | None) -> str:
    """`text` with one entry as it was `before`, or without it where it was not there."""
    return _replaced(text, key, _value(_sections(before), key))


def changed(text: str, before: str | None) -> list[Key]:
    """The entries of two files that load which are not equal."""
    new, old = _sections(text), _sections(before)
    keys = [(section, entry) for section in SECTIONS for entry in new.get(section) or {}]
    return [key for key in keys if _value(new, key) != _value(old, key)]


# ---------------------------------------------------------------------------------------------- one entry at a time

_STEPS = ("as it was", "as it was, with the source it was declared for", "left out")


def _mend(text: str, entry: Key, earlier: dict[str, Any], step: int) -> tuple[str, int]:
    """Take the next step that may help about an entry; returns the new text and how many steps were taken."""
    value = _value(earlier, entry)
    if step == 0 and value is not None:
        return _replaced(text, entry, value), 1
    if step <= 1 and value is not None and entry[0] == "models":
        source = ("sources", str(value.get("source")))
        if _value(earlier, source) is not None:
            return _replaced(_replaced(text, entry, value), source, _value(earlier, source)), 2
    return _replaced(text, entry, None), len(_STEPS)


def _as_before(error: ParamsError, lines: list[str], before: str | None, name: str) -> InForce:
    if before is None:
        raise error
    mistakes = tuple(f"{line}; {name} is in force as it last was right" for line in dict.fromkeys(lines))
    earlier = in_force(before, None, name)  # a newer program may refuse what an older one took
    return InForce(earlier.params, earlier.text, mistakes + earlier.mistakes)


def _outcome(entry: Key, step: int) -> str:
    name = ".".join(entry)
    if step < len(_STEPS):
        return f"{name} is in force as it last was right"
    return f"{name} is left out" if entry[0] not in WHOLE else f"{name} has its defaults"


def _entry(key: Key) -> Key:
    """The entry that a key belongs to; empty where the file as a whole is in question."""
    if key and key[0] in WHOLE:
        return key[:1]
    return key[:2] if len(key) >= 2 and key[0] in SECTIONS else ()


class _Reader(yaml.SafeLoader):
    """Reads around a value that is none: a day that no calendar has, a tag of another program."""

    def construct_day(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:
            return node.value

    def construct_unknown(self, node: yaml.Node) -> Any:
        return str(node.tag)


_Reader.add_constructor("tag:yaml.org,2002:timestamp", _Reader.construct_day)
_Reader.add_constructor(None, _Reader.construct_unknown)


def _read(text: str) -> Any:
    return yaml.load(text, Loader=_Reader)  # noqa: S506  (a SafeLoader)


def _sections(text: str | None) -> dict[str, Any]:
    found = _read(text) if text else {}
    return found if isinstance(found, dict) else {}


def _value(sections: dict[str, Any], key: Key) -> Any:
    inner: Any = sections
    for part in key:
        inner = inner.get(part) if isinstance(inner, dict) else None
    return inner


def _replaced(text: str, key: Key, value: Any) -> str:
    """The text with another value at a key, or without the key for None; the other lines stay where they are.

    Where the text cannot be cut so (the entry stands in a flow mapping, or others refer to its anchors), it is written
    anew.
    """
    sections = _sections(text)
    inner = sections
    for part in key[:-1]:
        inner = inner.setdefault(part, {})
    if value is None:
        inner.pop(key[-1], None)
    else:
        inner[key[-1]] = value
    try:
        cut = _cut(text, key, value)
        same = _plain(_read(cut)) == _plain(sections)
    except (yaml.YAMLError, ValueError, KeyError):
        same = False
    return cut if same else yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


def _cut(text: str, key: Key, value: Any) -> str:
    parent: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in key[:-1]:
        parent = {name.value: node for name, node in parent.value}[part]
    found = [(name, node) for name, node in parent.value if name.value == key[-1]]
    if not found or (value is None and parent.flow_style):
        raise KeyError(key)
    if value is None and len(found) == len(parent.value):
        return _spliced(text, parent, parent, "{}")
    for index, (name, node) in reversed(list(enumerate(found))):  # the same key may stand there twice
        if value is not None and index == 0:
            text = _spliced(text, node, node, json.dumps(value, default=str))
        else:
            text = _spliced(text, name, node, "")
    return text


def _spliced(text: str, first: yaml.Node, last: yaml.Node, new: str) -> str:
    """Other text for what stands from one node to another, with as many line breaks."""
    begin, end = first.start_mark.index, last.end_mark.index
    old = text[begin:end]
    indent = old.rpartition("\n")[2]
    return text[:begin] + new + "\n" * old.count("\n") + (indent if not indent.strip() else "") + text[end:]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _record_url(data_url: str) -> str:
    return storage.join(data_url, IN_FORCE)


def _decoded(data: bytes) -> Record:
    found = json.loads(data)
    return Record(found["version"], found["seen"], tuple(found["mistakes"]))
