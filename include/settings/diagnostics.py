"""What is wrong with a params.yaml, by line and key, with the nearest known word."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from include.settings.sources import SOURCE_TYPES, SourceBase
from include.text import did_you_mean


class ParamsError(ValueError):
    """params.yaml is wrong; the message has one line per mistake, each with file, line, key and remedy.

    Args:
        message: The lines.
        keys: What each line is about, as a path of keys; empty where it is about the file as a whole.
    """

    def __init__(self, message: str, keys: Iterable[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class Lines:
    """Where each key of a YAML text stands."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        self._noted: set[int] = set()
        self._note(yaml.compose(text, Loader=yaml.SafeLoader), ())

    def of(self, *key: str | int) -> int:
        """The line of a key, or of the nearest one above it that is in the text."""
        path = tuple(map(str, key))
        return next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)

    def at(self, line: int) -> tuple[str, ...]:
        """The entry, such as `models.trips`, that a line belongs to; empty when it belongs to none."""
        above = [(start, key) for key, start in self._lines.items() if len(key) <= 2 and start <= line]
        return max(above, key=lambda entry: (entry[0], len(entry[1])))[1] if above else ()

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._lines

    def _note(self, node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.CollectionNode):
            if (
                id(node) in self._noted
            ):  # what an alias stands for has its lines: it may stand in many places, or in itself
                return
            self._noted.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                self._lines[(*path, key.value)] = key.start_mark.line + 1
                self._note(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*path, str(index))] = value.start_mark.line + 1
                self._note(value, (*path, str(index)))


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; a user's lost setting deserves an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As it is written: `<<` adds keys to a node, also to one that is constructed afterwards."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return node

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> Any:
        """A day that no calendar has, such as 2026-02-30, stays text: the key that it stands at is then named."""
        try:
            return super().construct_yaml_timestamp(node)
        except ValueError:
            return node.value


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 2


_SHORT = _REPR.repr
"""What was given, for a message: anchors can make a few lines endless."""


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "date_type": "a day as YYYY-MM-DD",
    "date_parsing": "a day as YYYY-MM-DD",
    "date_from_datetime_parsing": "a day as YYYY-MM-DD",
    "date_from_datetime_inexact": "a day as YYYY-MM-DD",
}


def described(
    error: ValidationError, data: Any, lines: Lines, root: type[BaseModel]
) -> list[tuple[int, tuple[str, ...], str]]:
    """Line, key and message of each mistake in a mapping for `root`, in the order of the file; what a
    union's members expected is one."""
    found: dict[tuple[tuple[str, ...], str | None], tuple[list[str], str]] = {}
    for detail in error.errors():
        path = _real_path(detail["loc"], data)
        expected = _expected(detail)
        if expected:
            expectations, _ = found.setdefault((path, "expected"), ([], ""))
            expectations += [expected] if expected not in expectations else []
            found[path, "expected"] = (expectations, _but(detail))
        else:
            path, message = _located(path, _message(detail, root), lines)
            found[path, message] = ([], message)
    mistakes = []
    for (path, _), (expectations, message) in found.items():
        text = f"expected {' or '.join(expectations)}{message}" if expectations else message
        mistakes.append((lines.of(*path), path, text))
    return sorted(mistakes, key=lambda mistake: mistake[0])


def _expected(detail: Any) -> str | None:
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "")
    return _EXPECTED.get(detail["type"])


def _but(detail: Any) -> str:
    given = detail["input"]
    choices = re.findall(r"'([^']*)'", str((detail.get("ctx") or {}).get("expected", "")))
    hint = did_you_mean(given, choices) if isinstance(given, str) else ""
    return ", but nothing is given" if given is None else f", not {_SHORT(given)}{hint}"


def _message(detail: Any, root: type[BaseModel]) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx") or {}
    if kind == "extra_forbidden":
        word, known = str(detail["loc"][-1]), _siblings(detail["loc"], root)
        return "unknown key" + (did_you_mean(word, known) or f"; there are {', '.join(known)}")
    if kind == "missing":
        return "required, but not given"
    if kind == "string_pattern_mismatch":
        return f"{_SHORT(given)} must be lower-case letters, digits and _, beginning with a letter"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = given.get("type") if isinstance(given, dict) else None
        hint = did_you_mean(tag, SOURCE_TYPES) if isinstance(tag, str) else ""
        return f"type: expected {' or '.join(SOURCE_TYPES)}" + (f", not {_SHORT(tag)}{hint}" if tag is not None else "")
    if kind in ("too_short", "string_too_short"):
        return f"needs at least {context['min_length']}, but has {context.get('actual_length', 0)}"
    if kind == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    return f"{str(detail['msg']).replace('Input should be', 'must be')}, not {_SHORT(given)}"


def _located(path: tuple[str, ...], message: str, lines: Lines) -> tuple[tuple[str, ...], str]:
    """A check over several keys begins its message with the one to blame, relative to its own place or to the top."""
    named = re.match(r"^([\w.-]+): (.*)", message, re.DOTALL)
    if named:
        inner = (*path, *named[1].split("."))
        if len(inner) > len(path) and (inner in lines or inner[: len(path) + 1] in lines or path):
            return inner, named[2]
    return path, message


def _real_path(loc: tuple[str | int, ...], data: Any) -> tuple[str, ...]:
    """Pydantic's location without the names of union members, which are not in the file."""
    path: list[str] = []
    for index, part in enumerate(loc):
        if part == "[key]":
            continue
        if isinstance(data, dict):
            if part in data:
                data = data[part]
            elif index == len(loc) - 1 and not _is_member(part):
                data = None
            else:
                continue
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        path.append(str(part))
    return tuple(path)


def _is_member(part: str | int) -> bool:
    """Whether this is pydantic's name for a member of a union, not a key."""
    return part in SOURCE_TYPES or bool(re.search(r"[\[\]]", str(part)))


def _siblings(loc: tuple[str | int, ...], root: type[BaseModel]) -> list[str]:
    """The keys that were allowed where `loc` was refused."""
    schema = root
    for part in loc[:-1]:
        if schema is SourceBase:
            schema = SOURCE_TYPES.get(str(part), schema)
        elif part in schema.model_fields:
            inner = _models_in(schema.model_fields[str(part)].annotation)
            schema = SourceBase if set(inner) & set(SOURCE_TYPES.values()) else next(iter(inner), schema)
    return list(schema.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]


UniqueKeyLoader.add_constructor("tag:yaml.org,2002:timestamp", UniqueKeyLoader.construct_yaml_timestamp)
