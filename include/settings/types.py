"""Words that several settings share: tasks, types of columns, metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["regression", "binary", "multiclass"]


ColumnType = Literal["float", "int", "string", "bool", "timestamp", "date"]


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


DATE_FORMATS = ("iso", "day_first", "month_first", "epoch_s", "epoch_ms", "epoch_us")


METRICS: dict[str, Literal["minimize", "maximize"]] = {
    "mae": "minimize",
    "rmse": "minimize",
    "mse": "minimize",
    "r2": "maximize",
    "accuracy": "maximize",
    "precision": "maximize",
    "recall": "maximize",
    "f1": "maximize",
    "roc_auc": "maximize",
    "log_loss": "minimize",
}


DEFAULT_METRIC: dict[str, str] = {"regression": "mae", "binary": "roc_auc", "multiclass": "log_loss"}


TASK_METRICS: dict[str, frozenset[str]] = {
    "regression": frozenset({"mae", "rmse", "mse", "r2"}),
    "binary": frozenset({"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"}),
    "multiclass": frozenset({"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"}),
}


class Strict(BaseModel):
    """Settings that refuse unknown keys and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
