"""Asks the running service itself whether it answers with a version, and whether its answers are the golden ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from include.serving.predictor import GoldenMismatch, compare

POLL_SECONDS = 0.2


class NotServed(RuntimeError):
    """The service does not answer with the version, or not with the golden answers; the message says what it said."""


@dataclass(frozen=True)
class Verified:
    """The service answered with the version: after how many seconds, and to how many golden rows."""

    seconds: float
    rows: int


def verify(
    model: str, version: int, *, serving_url: str, serving_key: str, golden: dict[str, Any], timeout: float
) -> Verified:
    """Wait until the service reports the version, then send it the golden rows and compare the answers.

    Args:
        model: the registered model's name.
        version: the version that the ledger says is champion.
        serving_url: the service's address.
        serving_key: its key; empty for a service that is open.
        golden: the content of the served form's golden.json.
        timeout: seconds to wait for the version.

    Raises:
        NotServed: with what the service says about why.
    """
    started = time.monotonic()
    headers = {"Authorization": f"Bearer {serving_key}"} if serving_key else {}
    with httpx.Client(base_url=serving_url, headers=headers, timeout=10) as client:
        _wait_for(client, model, version, started + timeout)
        answer = _golden_answers(client, model, version, golden["rows"])
    try:
        compare(np.array(answer, dtype=np.float64), golden)
    except GoldenMismatch as error:
        raise NotServed(
            f"{model} version {version} is served, but answers otherwise than it did in training: {error}"
        ) from error
    return Verified(round(time.monotonic() - started, 2), len(answer))


def _wait_for(client: httpx.Client, model: str, version: int, deadline: float) -> None:
    while True:
        found = _state(client, model, version)
        if found is None:
            return
        if time.monotonic() >= deadline:
            raise NotServed(f"{client.base_url}: {model} version {version} is not served: {found}")
        time.sleep(POLL_SECONDS)


def _state(client: httpx.Client, model: str, version: int) -> str | None:
    """Why the service does not report the version; None when it does."""
    try:
        answer = client.get("/models")
    except httpx.HTTPError as error:
        return f"the service cannot be reached ({error}); see its log, or `make status`"
    if answer.status_code == 401:
        raise NotServed(
            f"{client.base_url}: the service refuses our key; is MLOPS_SERVING_KEY the one it was started with?"
        )
    if answer.status_code != 200:
        return f"/models answered {answer.status_code}: {answer.text[:300]}"
    entries = {entry["model"]: entry for entry in answer.json()["models"]}
    entry = entries.get(model)
    if entry and entry["version"] == version:
        return None
    if entry and entry["refused"] and entry["refused"]["version"] == version:
        return f"the service refused it ({entry['refused']['reason']}) and goes on with version {entry['version']}"
    health = client.get("/health").json()
    said = "; ".join(health.get("problems", [])) or f"it is {health.get('status')}"
    answering = f"version {entry['version']}" if entry else "no version"
    return f"{answering} of it answers; the service says: {said}"


def _golden_answers(client: httpx.Client, model: str, version: int, rows: list[Any]) -> list[Any]:
    answer = client.post(f"/models/{model}/batch-predict", json={"rows": rows})
    if answer.status_code != 200:
        raise NotServed(f"{model} version {version} refuses its golden rows: {answer.status_code} {answer.text[:500]}")
    document = answer.json()
    if document["version"] != version:
        raise NotServed(
            f"{model}: version {document['version']} answered instead of {version}; another promotion came between"
        )
    return [
        list(p["probabilities"].values()) if "probabilities" in p else p["prediction"] for p in document["predictions"]
    ]
