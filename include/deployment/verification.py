"""Asks the running service itself whether it answers with a version, and whether its answers are the golden ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from include.inference.predictor import GoldenMismatch, compare

POLL_SECONDS = 0.2
CONNECTIONS = 20
"""For each worker, so that all of them were asked."""


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


@dataclass(frozen=True)
class Seen:
    """What was waited for was seen: after how many seconds, in how many answers."""

    seconds: float
    answers: int


def tried(
    model: str, arm: str, version: int, *, serving_url: str, serving_key: str, workers: int, timeout: float,
    share: float | None = None,
) -> Seen:  # fmt: skip
    """Wait until every worker has loaded what a rollout tries, under the name of its arm.

    Args:
        model: the registered model's name.
        arm: the tried version's, as its strategy names it.
        version: the version that is tried.
        serving_url: the service's address.
        serving_key: its key; empty for a service that is open.
        workers: how many there are.
        timeout: seconds to wait.
        share: that it must have by now; None: any.

    Raises:
        NotServed: with what the service says about why.
    """

    def missing(entry: dict[str, Any] | None) -> str | None:
        arms = {known["name"]: known for known in (entry or {}).get("arms", ())}
        if arm not in arms or arms[arm]["version"] != version:
            return f"version {version} is not its {arm} yet"
        out: str | None = arms[arm]["out"]
        if out is None and share is not None and arms[arm]["share"] != share:
            return f"version {version} has {arms[arm]['share']:.0%} of the requests as {arm}, not {share:.0%} yet"
        return out and f"version {version} does not answer as {arm}: {out}"

    return _everywhere(model, missing, serving_url, serving_key, workers, timeout)


def withdrawn(
    model: str, version: int, rollout_ids: Sequence[int], *, serving_url: str, serving_key: str, workers: int,
    timeout: float,
) -> Seen:  # fmt: skip
    """Wait until every worker answers with the version, and with nothing that was tried in these rollouts.

    Args:
        model: the registered model's name.
        version: who is champion.
        rollout_ids: those that were stopped.
        serving_url: the service's address.
        serving_key: its key; empty for a service that is open.
        workers: how many there are.
        timeout: seconds to wait.

    Raises:
        NotServed: with what the service says about why.
    """

    def missing(entry: dict[str, Any] | None) -> str | None:
        if entry is None or entry["version"] != version:
            answering = f"version {entry['version']}" if entry else "no version"
            return f"{answering} of it answers, not version {version}"
        left = [arm["version"] for arm in entry.get("arms", ()) if arm["rollout_id"] in rollout_ids]
        return f"version {left[0]} is still tried" if left else None

    return _everywhere(model, missing, serving_url, serving_key, workers, timeout)


def retired(model: str, *, serving_url: str, serving_key: str, workers: int, timeout: float) -> Seen:
    """Wait until no worker answers for the model.

    Args:
        model: the registered model's name.
        serving_url: the service's address.
        serving_key: its key; empty for a service that is open.
        workers: how many there are.
        timeout: seconds to wait.

    Raises:
        NotServed: one still does, or the service cannot be asked.
    """

    def missing(entry: dict[str, Any] | None) -> str | None:
        return None if entry is None or entry["version"] is None else f"version {entry['version']} of it still answers"

    return _everywhere(model, missing, serving_url, serving_key, workers, timeout)


def _everywhere(
    model: str,
    missing: Callable[[dict[str, Any] | None], str | None],
    serving_url: str,
    serving_key: str,
    workers: int,
    timeout: float,
) -> Seen:
    """Ask until `CONNECTIONS` new connections for each worker in a row have found nothing missing.

    The kernel gives each connection to a worker by chance, so that one of `workers` is never met with a probability of
    (1 - 1/workers) ** (CONNECTIONS * workers), at most exp(-20).
    """
    started, needed, agreed, answers = time.monotonic(), CONNECTIONS * workers, 0, 0
    with httpx.Client(
        base_url=serving_url,
        headers={"Authorization": f"Bearer {serving_key}"} if serving_key else {},
        limits=httpx.Limits(max_keepalive_connections=0),
        timeout=5,
    ) as client:
        while agreed < needed:
            try:
                answer = client.get("/models")
                entries = {entry["model"]: entry for entry in _models(answer)}
                problem, answers = missing(entries.get(model)), answers + 1
            except (httpx.HTTPError, NotServed) as error:
                problem = str(error)
            agreed = agreed + 1 if problem is None else 0
            if time.monotonic() - started > timeout:
                raise NotServed(f"{serving_url}: {model}: {problem or 'it answers too slowly'}")
            if problem is not None:
                time.sleep(POLL_SECONDS)
    return Seen(round(time.monotonic() - started, 2), answers)


def _models(answer: httpx.Response) -> list[dict[str, Any]]:
    if answer.status_code != 200:
        raise NotServed(f"/models answered {answer.status_code}: {answer.text[:300]}")
    models: list[dict[str, Any]] = answer.json()["models"]
    return models


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
    problems = "; ".join(health.get("problems", [])) or f"it is {health.get('status')}"
    answering = f"version {entry['version']}" if entry else "no version"
    return f"{answering} of it answers; the service says: {problems}"


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
