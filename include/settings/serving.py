"""The settings of the service and of how a model is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, create_model

from include import strategies
from include.settings.types import Strict

Missing = Literal["auto", "error", "impute"]


OutOfRange = Literal["warn", "error", "clip"]


class FieldPolicy(Strict):
    """What the service does with one field of a request, where it differs from the model's own policies."""

    missing: Missing | None = None
    """As `missing` of the model. Default: the model's."""
    unknown_category: Literal["other", "error"] | None = None
    """As `features.unknown_category`. Default: the model's."""
    out_of_range: OutOfRange | None = None
    """As `out_of_range` of the model. Default: the model's."""


class Logged(Strict):
    """What of a prediction is kept in the prediction log, and how long."""

    inputs: Literal["all", "none"] | tuple[str, ...] = "all"
    """Which input columns are written down; the others appear nowhere."""
    keep_days: int = Field(default=90, ge=1)
    """Days after which predictions are deleted, a whole day at a time."""


if TYPE_CHECKING:
    StrategyName: TypeAlias = str

    class _OfStrategies(BaseModel):
        """The keys of all strategies."""
else:
    StrategyName = Literal[(strategies.DIRECT, *strategies.names())]
    _OfStrategies = create_model("_OfStrategies", __base__=tuple(dict.fromkeys(s.settings for s in strategies.every())))


class Rollout(Strict, _OfStrategies):
    """How a promoted version reaches its users, and what makes it go back by itself."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    strategy: StrategyName = strategies.DIRECT
    """`direct`: the champion at once. The others start that rollout when the gate says PROMOTE."""
    bake_minutes: float = Field(default=10, ge=0, title="Bake (minutes)")
    """How long a share must go well before the next."""
    minimum_requests: int = Field(default=100, ge=1)
    """Requests of the arm in the window, below which nothing is concluded from it and no step is taken."""
    window_seconds: float = Field(default=60, ge=1)
    """The window over which error rate, p99 and drift are taken."""
    maximum_error_rate: float = Field(default=0.05, gt=0, le=1)
    """The share of the arm's requests that may fail by no fault of the client's, before the rollout is taken back."""
    maximum_p99_ms: float = Field(default=500, gt=0)
    """Milliseconds within which 99 of 100 of the arm's answers must come, before the rollout is taken back."""
    maximum_drift: float = Field(default=0.3, gt=0)
    """PSI of the arm's predictions against the champion's over the same window."""


class Serving(Strict):
    """How the service answers for this model. The policies travel with each version, in its manifest."""

    default: bool = False
    """Whether `/predict` without a model's name means this one."""
    max_batch: int = Field(default=10_000, ge=1)
    """Rows in one request."""
    missing: Missing = "auto"
    """A field that is absent or null. `auto`: refused where training never missed it, else imputed."""
    out_of_range: OutOfRange = "warn"
    """A number outside of what training saw. `warn`: predicted, with a warning in the answer."""
    extra_field: Literal["error", "ignore"] = "error"
    """A field that the model does not know."""
    fields: dict[str, FieldPolicy] = Field(default_factory=dict)
    """Field → the policies in which it differs."""
    units: dict[str, str] = Field(default_factory=dict)
    """Field → its unit (miles, EUR), for the OpenAPI page; the target's too."""
    log: Logged = Logged()
    rollout: Rollout = Rollout()


class Service(Strict):
    """The prediction service as a whole: workers, limits, and the local part of the prediction log."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes that answer."""
    pin_workers: bool = False
    """Each worker on a core of its own (Linux). For a machine that is theirs alone: elsewhere one may wait for whoever
    computes on its core while another core is free."""
    fsync: Literal["always", "interval", "never"] = "always"
    """When an acknowledged prediction is safe from a power cut: before its answer leaves; within a second; when the
    system likes. Whatever is chosen, it outlives a kill -9 of the service."""
    spool_megabytes: int = Field(default=2048, ge=16)
    """What the local log may hold while PostgreSQL is away."""
    when_full: Literal["count", "refuse"] = "count"
    """A full local log: answer, count and alert; or refuse with 503, where no answer may go unrecorded."""
    max_body_megabytes: float = Field(default=10, gt=0)
    """A larger body is refused with 413."""
    body_seconds: float = Field(default=10, gt=0)
    """How long a body may take to arrive."""
    request_seconds: float = Field(default=30, gt=0)
    """How long an answer may take once the body is there."""
    max_concurrency: int = Field(default=256, ge=1)
    """Requests in a worker at once; what comes beyond is told to come again (503 with Retry-After)."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Quota of a key in a worker, unless the key has one of its own; beyond it 429 with Retry-After."""
    memory_megabytes: int = Field(default=1024, ge=64)
    """Budget for loaded models: versions beyond it are not loaded, and that is said."""
    drain_seconds: float = Field(default=1.0, ge=0, le=5)
    """After SIGTERM: how long readiness says 503 while requests are still taken. What follows may take 9 s more: the
    requests in flight, the last predictions; and after 15 s the stack kills what has not ended."""
    path_prefix: str = Field(default="", pattern=r"^((/[A-Za-z0-9._~-]+)+)?$")
    """`/ml`: a path of a proxy's, below which the service is found, too; its links carry it. A proxy that strips its
    own may say it by X-Forwarded-Prefix instead."""
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s?#]+)$")], ...] = ()
    """Origins, such as `https://app.example.org`, whose pages may call the service from a browser (CORS); `*`: all.
    Default: none."""
    access_log: Literal["all", "errors", "off"] = "all"
    """A line for each request, without anything that was sent; or for those with a status from 400 on; or none."""
