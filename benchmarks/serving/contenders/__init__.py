"""Who takes part: how each is started, how it is asked, how its answer is read. The servers are this package's files.

Nothing here is imported that a contender's own environment would not have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HOST = "127.0.0.1"
KEY = "benchmark".ljust(43, "-")
"""As long as a key is that the platform makes."""


@dataclass(frozen=True)
class Place:
    """Where a contender runs."""

    root: Path
    """The repository."""
    python: Path
    """The interpreter of its environment."""
    model: Path
    """What `model.make` wrote."""
    home: Path
    """A folder of its own, empty at the start."""
    port: int


@dataclass(frozen=True)
class Dialect:
    """How one row and many rows are asked for, and where the predictions are in the answer."""

    one_path: str
    many_path: str
    one: Callable[[Row], Any]
    many: Callable[[list[Row]], Any]
    read_one: Callable[[Any], float]
    read_many: Callable[[Any], list[float]]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """One server."""

    key: str
    title: str
    packages: tuple[str, ...]
    """Whose versions are reported."""
    command: Callable[[Place], list[str]]
    dialect: Dialect
    environment: str = ""
    """The name of its own environment, pinned in requirements-<name>.txt; empty: the platform's."""
    prepare: Callable[[Place], None] = lambda place: None
    """Writes the configuration files it needs below its home."""
    sizes: tuple[int, ...] = (1, 100)
    """The numbers of rows it is asked."""
    note: str = ""


ROWS = Dialect(
    "/predict",
    "/batch-predict",
    one=lambda row: row,
    many=lambda rows: {"rows": rows},
    read_one=lambda answer: answer["prediction"],
    read_many=lambda answer: answer["predictions"],
)
"""What the hand-written servers take: a row, or `{"rows": […]}`."""
OURS = Dialect(
    "/models/delivery/predict",
    "/models/delivery/batch-predict",
    one=lambda row: row,
    many=lambda rows: {"rows": rows},
    read_one=lambda answer: answer["prediction"],
    read_many=lambda answer: [entry["prediction"] for entry in answer["predictions"]],
    headers={"Authorization": f"Bearer {KEY}"},
)
RECORDS = Dialect(
    "/invocations",
    "/invocations",
    one=lambda row: {"dataframe_records": [row]},
    many=lambda rows: {"dataframe_records": rows},
    read_one=lambda answer: answer["predictions"][0],
    read_many=lambda answer: answer["predictions"],
)
BENTO = Dialect(
    "/predict",
    "/batch_predict",
    one=lambda row: {"row": row},
    many=lambda rows: {"rows": rows},
    read_one=float,
    read_many=list,
)
LIST = Dialect(
    "/predict",
    "/predict",
    one=lambda row: {"rows": [row]},
    many=lambda rows: {"rows": rows},
    read_one=lambda answer: answer["predictions"][0],
    read_many=lambda answer: answer["predictions"],
)


def _tensors(rows: list[Row]) -> dict[str, Any]:
    """The Open Inference Protocol: a tensor for each column."""
    inputs = []
    for name, value in rows[0].items():
        text = isinstance(value, str)
        tensor = {"name": name, "shape": [len(rows), 1], "datatype": "BYTES" if text else "FP64"}
        inputs.append(tensor | {"data": [row[name] for row in rows]} | ({"parameters": _TEXT} if text else {}))
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


_TEXT = {"content_type": "str"}
TENSORS = Dialect(
    "/v2/models/delivery/infer",
    "/v2/models/delivery/infer",
    one=lambda row: _tensors([row]),
    many=_tensors,
    read_one=lambda answer: answer["outputs"][0]["data"][0],
    read_many=lambda answer: answer["outputs"][0]["data"],
)


def _ours(place: Place) -> list[str]:
    from include.serving.process.command import serve_command

    return list(serve_command(place.port, place.root))


def _uvicorn(module: str) -> Callable[[Place], list[str]]:
    """As fast as uvicorn goes: uvloop, httptools, no access log, no headers that nobody asked for."""

    def command(place: Place) -> list[str]:
        application = f"benchmarks.serving.contenders.{module}:application"
        plain = ["--no-access-log", "--log-level", "warning", "--no-server-header", "--no-date-header"]
        address = ["--host", HOST, "--port", str(place.port)]
        return [str(place.python), "-m", "uvicorn", application, *address, "--loop", "uvloop", *plain]

    return command


def _mlflow(place: Place) -> list[str]:
    address = ["--host", HOST, "--port", str(place.port)]
    model = ["--model-uri", str(place.model / "mlflow"), "--env-manager", "local", "--workers", "1"]
    return [str(place.python), "-m", "mlflow", "models", "serve", *model, *address]


def _mlserver(place: Place) -> list[str]:
    return [str(place.python.with_name("mlserver")), "start", str(place.home)]


def _mlserver_settings(place: Place) -> None:
    from benchmarks.serving.processes import free_port

    ports = {"http_port": place.port, "grpc_port": free_port(), "metrics_port": free_port()}
    model = {
        "name": "delivery",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(place.model / "pipeline.joblib")},
    }
    place.home.mkdir(parents=True, exist_ok=True)
    (place.home / "settings.json").write_text(json.dumps({"host": HOST, "debug": False, **ports}))
    (place.home / "model-settings.json").write_text(json.dumps(model))


def _litserve(place: Place) -> list[str]:
    return [str(place.python), "-m", "benchmarks.serving.contenders.litserve_onnx", str(place.port)]


def _bentoml(place: Place) -> list[str]:
    service = "benchmarks.serving.contenders.bentoml_defaults:Delivery"
    address = ["--host", HOST, "--port", str(place.port), "--working-dir", str(place.root)]
    return [str(place.python), "-m", "bentoml", "serve", service, *address]


ALL = (
    Contender("ours", "ours, everything on", ("bentoml", "onnxruntime", "msgspec"), _ours, OURS),
    Contender("raw", "raw uvicorn + onnxruntime", ("uvicorn", "onnxruntime", "msgspec"), _uvicorn("raw"), ROWS),
    Contender(
        "raw-xgboost",
        "raw uvicorn + libxgboost",
        ("uvicorn", "xgboost"),
        _uvicorn("raw_xgboost"),
        ROWS,
        sizes=(100,),
        note="with one row it is the one above",
    ),
    Contender(
        "fastapi-inplace",
        "FastAPI + NumPy + inplace_predict",
        ("fastapi", "pydantic", "xgboost"),
        _uvicorn("fastapi_inplace"),
        ROWS,
    ),
    Contender("litserve", "LitServe + onnxruntime", ("litserve",), _litserve, LIST, environment="litserve"),
    Contender(
        "fastapi-pipeline",
        "FastAPI + scikit-learn pipeline",
        ("fastapi", "scikit-learn", "pandas"),
        _uvicorn("fastapi_pipeline"),
        ROWS,
    ),
    Contender("bentoml", "BentoML's defaults + pipeline", ("bentoml", "scikit-learn"), _bentoml, BENTO),
    Contender("mlflow", "mlflow models serve", ("mlflow", "scikit-learn"), _mlflow, RECORDS),
    Contender(
        "mlserver",
        "MLServer + pipeline",
        ("mlserver", "mlserver-sklearn"),
        _mlserver,
        TENSORS,
        environment="mlserver",
        prepare=_mlserver_settings,
    ),
)
