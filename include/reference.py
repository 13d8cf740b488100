"""Pages of docs/ that are made from the program: params.yaml's settings, the `mlops` command, the service's metrics.

`make docs` (or `python -m include.reference`) writes them; a test compares what is committed with what this makes.
"""

from __future__ import annotations

import ast
import datetime as dt
import importlib
import inspect
import itertools
import json
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from include import settings, strategies
from include.cli.main import app
from include.features import transforms
from include.home import ROOT
from include.serving.metrics.prometheus import Metrics
from include.serving.prediction_log.log_metrics import LogMetrics

DOCS = ROOT / "docs"

MADE = "<!-- Made by `make docs` from {source}. Edit that, not this page. -->"


def mappings(kind: Any) -> list[type[BaseModel]]:
    """The mappings with keys of their own that a type is made of, itself among them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind, *(inner for field in kind.model_fields.values() for inner in mappings(field.annotation))]
    return [inner for each in get_args(kind) for inner in mappings(each)]


SECTIONS: dict[type[BaseModel], str] = {
    settings.SourceBase: "sources.<source>",
    settings.SampleSource: "sources.<source>, type: sample",
    settings.Incident: "sources.<source>.incidents[]",
    settings.FilesSource: "sources.<source>, type: files",
    settings.Model: "models.<model>",
    settings.Features: "models.<model>.features",
    **{
        kind: f"models.<model>.features.{name}.<name>"
        for name in transforms.names()
        for kind in mappings(transforms.load(name).Declaration)
    },
    settings.Split: "models.<model>.split",
    settings.Tuning: "models.<model>.tuning",
    settings.Gate: "models.<model>.gate",
    settings.Serving: "models.<model>.serving",
    settings.FieldPolicy: "models.<model>.serving.fields.<field>",
    settings.Logged: "models.<model>.serving.log",
    settings.Rollout: "models.<model>.serving.rollout",
    **{
        strategy.settings: f"models.<model>.serving.rollout, strategy: {strategy.name}"
        for strategy in strategies.every()
        if strategy.settings.model_fields
    },
    settings.Monitoring: "models.<model>.monitoring",
    settings.Drift: "models.<model>.monitoring.drift",
    settings.Service: "service",
    settings.Lifetimes: "keep",
}
"""The mappings of params.yaml in the order of the page, each with its place in the file."""

METRICS: tuple[Callable[[CollectorRegistry], object], ...] = (Metrics, LogMetrics)
"""What registers the service's metrics."""


def pages() -> dict[str, str]:
    """Each page's file name and text."""
    return {"params.md": params_page(), "cli.md": cli_page(), "metrics.md": metrics_page()}


# ------------------------------------------------------------------------------------------------ params.yaml


def params_page() -> str:
    """All keys of params.yaml: type, default, bounds, meaning."""
    lines = [
        MADE.format(source="the settings' fields and docstrings"),
        "# params.yaml, key by key",
        "",
        "Two mappings of names, `sources` and `models`, and two of settings, `service` and `keep`. `<…>` is a name",
        "of yours. A key that is not listed is an error, and so is one given twice; `mlops check` names the line.",
        "More about them: [sources.md](sources.md), [tuning.md](tuning.md), [serving.md](serving.md).",
    ]
    for section, place in SECTIONS.items():
        meanings, own = _meanings(section), inspect.get_annotations(section)
        lines += ["", f"## {place}", "", *_paragraphs(section), "", "| key | type | default | bounds | meaning |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            _row(name, field, meanings.get(name) or _of_mapping(field))
            for name, field in section.model_fields.items()
            if name in own
        ]
        if section is settings.Features:
            lines += [_transform_row(name) for name in transforms.names()]
    return "\n".join(lines) + "\n"


def _row(name: str, field: FieldInfo, meaning: str) -> str:
    if not meaning:
        raise ValueError(f"{name}: has no docstring in the settings, so docs/params.md cannot say what it means")
    cells = [f"`{name}`", _type(field.annotation), _default(field), ", ".join(_bounds(field)), meaning]
    return _table_row(cells)


def _transform_row(name: str) -> str:
    """A transform is declared under its file's name; nothing is, by default."""
    module = importlib.import_module(f"{transforms.__name__}.{name}")
    meaning = _documented(ast.parse(inspect.getsource(module)).body)["Declaration"]
    return _table_row([f"`{name}`", _type(module.Declaration), "none", "", meaning])


def _table_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _paragraphs(section: type[BaseModel]) -> list[str]:
    return inspect.cleandoc(section.__doc__ or "").splitlines()


def _of_mapping(field: FieldInfo) -> str:
    """What a key means that holds a mapping with a section of its own."""
    kind = field.annotation
    return _paragraphs(kind)[0] if isinstance(kind, type) and issubclass(kind, BaseModel) else ""


def _meanings(section: type[BaseModel]) -> dict[str, str]:
    """Each field's docstring: the text that stands below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101  for mypy
    return _documented(body.body)


def _documented(body: list[ast.stmt]) -> dict[str, str]:
    """What is assigned in a class or a module, with the text that stands below it."""
    found = {}
    for each, text in itertools.pairwise(body):
        if not isinstance(each, ast.AnnAssign | ast.Assign):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            target = each.target if isinstance(each, ast.AnnAssign) else each.targets[0]
            found[ast.unparse(target)] = " ".join(str(text.value.value).split())
    return found


_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true, false", dt.date: "day", type(None): "null"}


def _type(kind: Any) -> str:
    """A type in the words of a person who writes YAML."""
    if kind == settings.Dimension:
        return "dimension"
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"[mapping](#{_anchor(SECTIONS[kind])})"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"mapping of names to {_type(inner[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each) for each in inner if each is not type(None)))
    raise TypeError(f"{kind!r} has no words for docs/params.md")


def _anchor(heading: str) -> str:
    """The link that GitHub gives a heading."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in "_- ").replace(" ", "-")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return ""
    if value is None or value == "":
        return "none"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _bounds(field: FieldInfo) -> Iterator[str]:
    """The bounds of a key's value, and of each item where it is a list."""
    yield from _rules(field.metadata)
    inner = get_args(field.annotation)
    item = "each " if get_origin(field.annotation) is tuple else ""
    for kind in inner if get_origin(field.annotation) is not dict else ():
        if get_origin(kind) is Annotated:
            yield from (f"{item}{rule}" for declared in get_args(kind)[1:] for rule in _rules(declared.metadata))


_SIGNS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {} long", "pattern": "`{}`"}


def _rules(declared: list[Any]) -> Iterator[str]:
    for rule in declared:
        for name, sign in _SIGNS.items():
            if (value := getattr(rule, name, None)) is not None:
                yield sign.format(value)


# ------------------------------------------------------------------------------------------------ the command


def cli_page() -> str:
    """The help of every command."""
    lines = [MADE.format(source="include/cli/"), "# The mlops command", ""]
    root = typer.main.get_command(app)
    lines += [inspect.cleandoc(root.help or "").splitlines()[0], "", "It is `.venv/bin/mlops` in the checkout."]
    for path, command in _commands(root, ("mlops",)):
        context = typer.Context(command, info_name=" ".join(path))
        usage = " ".join([*path, *command.collect_usage_pieces(context)])
        lines += [
            "",
            f"## {' '.join(path)}",
            "",
            *inspect.cleandoc(command.help or "").splitlines(),
            "",
            f"    {usage}",
        ]
        records = [each.get_help_record(context) for each in command.params if each.name != "help"]
        if rows := [_table_row((f"`{name}`", text)) for name, text in filter(None, records)]:
            lines += ["", "| argument | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, each in sorted(getattr(command, "commands", {}).items()):
        if hasattr(each, "commands"):
            yield from _commands(each, (*path, name))
        else:
            yield (*path, name), each


# ------------------------------------------------------------------------------------------------ metrics


def metrics_page() -> str:
    """What the service counts, by name."""
    lines = [
        MADE.format(source="what the service registers"),
        "# The prediction service's metrics",
        "",
        "`GET /metrics`, with a key of scope `admin`, in Prometheus' text format; of all workers together. No label",
        "names a version, since a label's values are never forgotten: a gauge's value does. What each version did by",
        "the minute is in PostgreSQL ([serving.md](serving.md)). BentoML's and Python's own metrics stand there too.",
        "",
        "| name | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for make in METRICS:
        for collector in vars(make(CollectorRegistry())).values():
            (family,) = collector.describe()
            labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # prometheus_client has no public name
            suffix = {"counter": "_total", "histogram": "_bucket`, `_sum`, `_count"}.get(family.type, "")
            lines.append(f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
