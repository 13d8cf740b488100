"""The served form as MLflow saves it: a `pyfunc` model with its signature, an example and the code that answers."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from include.home import ROOT
from include.inference.served_form import ServedForm
from include.source_files import imported_modules

_TYPES = {"string": "string", "bool": "boolean", "timestamp": "datetime", "date": "datetime"}


def log_arguments(form: ServedForm, scratch: Path) -> dict[str, Any]:
    """The arguments of `mlflow.pyfunc.log_model`: the served form as it is, and the code that answers with it."""
    from include.training import pyfunc

    return {
        "loader_module": pyfunc.__name__,
        "data_path": str(form.directory),
        "code_paths": [str(_copied(Path(pyfunc.__file__), scratch))],
        "signature": _signature(form),
        "input_example": _example(form),
        "pip_requirements": [f"{package}=={version(package)}" for package in pyfunc.REQUIREMENTS],
        "metadata": {"content_hash": form.content_hash},
    }


def _copied(module: Path, into: Path) -> Path:
    """Copy a module and all of ours that it imports, as a package of their own; returns the package's folder."""
    for file in [module, module.with_name("__init__.py"), *imported_modules(module, ROOT)]:
        target = into / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return into / "include"


def _signature(form: ServedForm) -> Any:
    """The inputs of a request, and the answer's columns.

    Numbers are of any type: MLflow would refuse 3 where 3.0 is expected, and 3.0 where whole numbers may be missing.
    The served form's own schema checks them.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = [
        ColSpec(DataType[_TYPES[entry["type"]]], entry["name"], required=entry["required"])
        if entry["type"] in _TYPES
        else ColSpec(AnyType(), entry["name"], required=False)
        for entry in form.manifest["inputs"]
    ]
    classes = form.manifest["classes"]
    kind = "double" if classes is None else "string" if isinstance(classes[0], str) else "long"
    if classes is not None and isinstance(classes[0], bool):
        kind = "boolean"
    outputs = [ColSpec(DataType[kind], "prediction")]
    outputs += [ColSpec(DataType.double, f"probability_{label}") for label in classes or ()]
    return ModelSignature(Schema(inputs), Schema(outputs))


def _example(form: ServedForm) -> Any:
    """Some golden rows, as a caller has them."""
    import pandas as pd

    frame = pd.DataFrame(form.json("golden.json")["rows"][:3])
    for entry in form.manifest["inputs"]:
        if entry["type"] in ("timestamp", "date"):
            frame[entry["name"]] = pd.to_datetime(frame[entry["name"]])
    return frame
