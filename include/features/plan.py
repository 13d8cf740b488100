"""What one run of the feature stage is to make, as it stands in the workspace."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from include import schemas
from include.features.computed import ComputedFeatures


class StageError(ValueError):
    """The features of a partition cannot be used; the message names the partition, the column and what to do."""


@dataclass(frozen=True)
class Plan:
    """What one run of the stage is to make."""

    model: str
    partitions: dict[str, str]
    """key → SHA-256 of the validated file."""
    source: str
    feature_set: ComputedFeatures
    target: str
    columns: tuple[str, ...]
    """Raw columns that a feature file holds, target last."""
    fingerprint: str
    """Of features, types and code: another one means that everything is computed again."""
    types: schemas.Types = field(default_factory=dict)
    """Column → type of the source, in which each partition is read, whatever it holds itself."""


def read_plan(workspace: Path, model: str) -> Plan:
    """The plan that versions/builder.py wrote in a workspace."""
    folder = workspace / "inputs" / model
    listed = json.loads((folder / "partitions.json").read_bytes())
    described = json.loads((folder / "features.json").read_bytes())
    definition = folder / "definition.py"
    source = definition.read_text(encoding="utf-8") if definition.exists() else None
    feature_set = ComputedFeatures(described["spec"], source)
    apart = [c for c in (described["time_column"], described["entity"]) if c and c not in feature_set.inputs]
    text = json.dumps([described, feature_set.definition], sort_keys=True)
    return Plan(
        model=model,
        partitions=dict(listed["partitions"]),
        source=listed["source"],
        feature_set=feature_set,
        target=described["target"],
        columns=(*feature_set.inputs, *dict.fromkeys(apart), described["target"]),
        types=described.get("types", {}),
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )
