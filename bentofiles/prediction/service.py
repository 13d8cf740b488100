"""The prediction service: BentoML runs it; include/serving answers in front of BentoML's own middleware.

From a checkout it follows the champions in PostgreSQL (MLOPS_DATABASE_URL) and keeps its last good copies below
MLOPS_HOME/serving. As a Bento it also holds one model, in `served/`, and without a database it answers with that one.
It wants a key, or MLOPS_SERVING_OPEN=1, which says that none is wanted: see include/serving/process/command.py.

BentoML's typed API, below, is the contract. The middleware around it costs many times what an answer costs, so an
application in front of it all answers the same paths with the same bytes; MLOPS_SERVING_HOT_PATH=off lets the typed API
answer, to compare. It gets there by `to_asgi`, which is BentoML's own step from a service to what its server runs, in
the class that its decorator takes as `service_class`. Should BentoML once go another way, the service does not start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Self

import bentoml
from pydantic import ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from include.serving.http.bentoml_app import ANSWERED, CONTENT_TYPE, BentoMLAdapter
from include.serving.process.command import CannotStart, check_keys
from include.serving.process.worker import Worker

ROOT = Path(__file__).resolve().parent.parent.parent
worker = Worker(os.environ, ROOT)


class InFront(bentoml.Service):
    """A BentoML service whose server runs our application, with BentoML's behind it."""

    behind: ClassVar[BentoMLAdapter | None] = None

    def to_asgi(self, is_main: bool = True) -> Any:
        """What BentoML hands to its server."""
        InFront.behind = BentoMLAdapter(super().to_asgi(is_main=is_main))
        return worker.application.in_front_of(InFront.behind)


class Row(bentoml.IODescriptor):
    """An object with a field for each input of the version that answers."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:
        """Nothing: the version's own schema, which BentoML cannot know, decodes and checks the body."""
        empty: Self = cls.model_construct()
        return empty


class Batch(Row):
    """Rows, or columns of equal length; as Arrow or parquet, too."""

    model_config = ConfigDict(
        json_schema_extra={"properties": {"rows": {"type": "array"}, "columns": {"type": "object"}}}
    )


class PredictedRow(bentoml.IODescriptor):
    """A prediction and what goes with it; `probabilities` of a classification only, the last two if there are any."""

    model_config = ConfigDict(extra="allow")

    prediction_id: str
    prediction: float | int | bool | str
    probabilities: dict[str, float] | None = None
    warnings: list[dict[str, Any]] | None = None
    explanation: dict[str, Any] | None = None


class Predicted(PredictedRow):
    """The answer to a row."""

    model: str
    version: int


class PredictedBatch(bentoml.IODescriptor):
    """The answer to a batch, in the order of its rows."""

    model: str
    version: int
    predictions: list[PredictedRow]


@bentoml.service(
    name="prediction",
    workers=int(os.environ.get("MLOPS_SERVING_WORKERS") or 1),
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
    tracing={"excluded_urls": ".*"},
    service_class=InFront,
)
class Prediction:
    """Answers with the champion of each model."""

    @bentoml.api(route="/predict", input_spec=Row, output_spec=Predicted)
    async def predict(self, ctx: bentoml.Context) -> Response:
        """Predict a row by the default model."""
        return await _answered(ctx)

    @bentoml.api(route="/batch-predict", input_spec=Batch, output_spec=PredictedBatch)
    async def batch_predict(self, ctx: bentoml.Context) -> Response:
        """Predict several rows by the default model."""
        return await _answered(ctx)

    @bentoml.api(route="/models/{model}/predict", input_spec=Row, output_spec=Predicted)
    async def predict_by_model(self, ctx: bentoml.Context) -> Response:
        """Predict a row by a model."""
        return await _answered(ctx)

    @bentoml.api(route="/models/{model}/batch-predict", input_spec=Batch, output_spec=PredictedBatch)
    async def batch_predict_by_model(self, ctx: bentoml.Context) -> Response:
        """Predict several rows by a model."""
        return await _answered(ctx)

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Refuse to listen without a key, once and clearly, before `bentoml serve` starts any worker."""
        try:
            check_keys(os.environ, ROOT)
        except CannotStart as error:
            raise SystemExit(str(error)) from None

    @bentoml.on_startup
    async def start(self) -> None:
        """Begin, if the application is where it must be."""
        if InFront.behind is None or not InFront.behind.reached:
            raise RuntimeError(
                f"BentoML {bentoml.__version__} does not run the application that `to_asgi` makes, so nobody would"
                " check keys: the service does not start; see InFront in bentofiles/prediction/service.py"
            )
        await worker.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """End, with everything acknowledged on disk."""
        await worker.stop()

    def __is_ready__(self) -> bool:
        """Whether there is a model that answers."""
        return worker.ready


async def _answered(ctx: bentoml.Context) -> Response:
    scope, body = ctx.request.scope, await ctx.request.body()
    status, answer = await worker.application.answer_typed(
        scope["path"], scope[CONTENT_TYPE], scope["query_string"], body
    )
    ctx.response.status_code = status
    return Response(answer, status, {ANSWERED: "1"}, "application/json")
