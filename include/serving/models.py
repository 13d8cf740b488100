"""The models that the service answers with: it follows the champions in PostgreSQL and swaps by itself.

A new champion is downloaded into the local copies, checked against the ledger's content hash, loaded beside the old
one and made to answer its golden rows; only then one reference changes. Whatever fails on that way leaves the old model
answering, and is said in /models, in the metrics and in the log. The copies and the small file that names the last good
ones stay on disk, so that the service starts while everything behind it is down.

    <home>/serving/champions.json              which version of each model answered last: replaced atomically
    <home>/serving/<model>/<content hash>/     its served form, and the one before it
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from include import served_form, storage
from include.serving.metrics import Metrics
from include.serving.predictor import GoldenMismatch, Predictor

CHAMPIONS = "champions.json"
LOAD_SECONDS = 60.0
"""For loading a version and replaying its golden rows; a definition that never returns must not stop the following."""
SILENCE_SECONDS = 5.0
"""How long a question to PostgreSQL may stay unanswered before the service calls itself degraded."""
FIRST_SECONDS = 4.0
"""How long the start waits for the ledger and its champions when there is no last good copy."""
KEPT_COPIES = 2

log = logging.getLogger("mlops.serving")


@dataclass(frozen=True)
class Champion:
    """A row of the `champions` table."""

    model: str
    version: int
    content_hash: str
    url: str
    bento: str
    ledger_id: int


@dataclass(frozen=True)
class Loaded:
    """A version in memory, that answers."""

    champion: Champion
    predictor: Predictor
    origin: str
    """`ledger`, `last good copy` or `bento`."""
    loaded_at: str

    @property
    def version(self) -> int:
        """MLflow's number of it."""
        return self.champion.version


@dataclass(frozen=True)
class Refusal:
    """A champion of the ledger that was not swapped in, and why."""

    champion: Champion
    reason: str
    at: str
    attempts: int
    again: float
    """When, on the monotonic clock, it is tried once more."""


class Models:
    """The loaded models, and the thread that keeps them at the ledger's champions.

    Args:
        database_url: the platform's PostgreSQL; empty: nothing is followed, the bundled models answer.
        copies: the folder of the last good copies; None: none are kept, which only a service without a ledger may do.
        bundled: the folder of the models packed into the Bento, of the same shape as `copies`.
        default: the model that /predict means; empty: the only one.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        database_url: str = "",
        copies: Path | None = None,
        bundled: Path | None = None,
        default: str = "",
        poll_seconds: float = 0.5,
    ) -> None:
        self._metrics, self._copies, self._bundled = metrics, copies, bundled
        self._database_url = re.sub(r"^postgresql\+\w+://", "postgresql://", database_url)
        self._poll_seconds = poll_seconds
        self._declared_default = default
        self._loaded: Mapping[str, Loaded] = {}
        self._refused: dict[str, Refusal] = {}
        self._champions: dict[str, Champion] = {}
        self._ledger_error: str | None = "it was not read yet"
        self._asked_at: float | None = None
        self._stop, self._asked_once = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------- what answers

    def get(self, model: str) -> Loaded | None:
        """The version of `model` that answers now."""
        return self._loaded.get(model)

    @property
    def loaded(self) -> Mapping[str, Loaded]:
        """All that answer now; never changed, only replaced."""
        return self._loaded

    @property
    def default(self) -> str | None:
        """The model that /predict means: the declared one, or the only one."""
        if self._declared_default:
            return self._declared_default
        return next(iter(self._loaded)) if len(self._loaded) == 1 else None

    # ------------------------------------------------------------------------------------------- its state

    def problems(self) -> list[str]:
        """Why the service is degraded or unavailable: one sentence each, none when all is well."""
        problems = []
        if self._database_url:
            if error := self._ledger_silence():
                problems.append(f"the ledger in PostgreSQL cannot be read ({error}); no new champion is noticed")
            for model, refusal in sorted(self._refused.copy().items()):
                old = self.get(model)
                goes_on = f"version {old.version} goes on answering" if old else "no version of it answers"
                problems.append(
                    f"{model} version {refusal.champion.version} was not swapped in: {refusal.reason}; {goes_on}"
                )
        if reason := self.not_ready:
            problems.append(reason)
        return problems

    @property
    def not_ready(self) -> str | None:
        """Why nothing can be answered, without details of what stands behind the service; None when something can."""
        if self._loaded:
            return None
        if not self._database_url:
            return "no model is packed into this Bento, and no ledger is configured (MLOPS_DATABASE_URL)"
        if self._ledger_silence():
            return "the ledger in PostgreSQL cannot be read, and there is no last good copy of a model"
        if self._champions:
            return "no champion could be loaded, and there is no last good copy of a model; /health says why"
        return "no champion was promoted yet; run the train and deploy DAGs of a model"

    @property
    def status(self) -> str:
        """`ok`, `degraded` (answering, but see `problems`) or `unavailable`."""
        if not self._loaded:
            return "unavailable"
        return "degraded" if self.problems() else "ok"

    def describe(self) -> list[dict[str, Any]]:
        """Each model, with the version that answers and the one that was refused, for /models."""
        loaded, refused = self._loaded, self._refused.copy()
        return [_describe(model, loaded.get(model), refused.get(model)) for model in sorted({*loaded, *refused})]

    def _ledger_silence(self) -> str | None:
        asked = self._asked_at
        if asked is not None and (silent := time.monotonic() - asked) > SILENCE_SECONDS:
            return f"it has not answered for {silent:.0f} s"
        return self._ledger_error

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Load the last good copies, or what the Bento holds, and begin to follow the ledger."""
        for folder, origin in ((self._copies, "last good copy"), (self._bundled, "bento")):
            for champion in _remembered(folder):
                if folder is not None and champion.model not in self._loaded:
                    self._start_with(champion, folder, origin)
        if self._database_url:
            self._thread = threading.Thread(target=self._follow, name="follow-champions", daemon=True)
            self._thread.start()
            if not self._loaded:  # what could be answered while waiting?
                self._asked_once.wait(FIRST_SECONDS)

    def stop(self) -> None:
        """End the following; what is loaded goes on answering."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=5)

    def _start_with(self, champion: Champion, folder: Path, origin: str) -> None:
        try:
            form = served_form.verify(_copy(folder, champion), champion.content_hash)
            self._swap(champion, _load(form, champion), origin)
        except (served_form.BadServedForm, GoldenMismatch, OSError) as error:
            log.warning("copy refused", extra={"fields": {**asdict(champion), "origin": origin, "reason": str(error)}})

    def _follow(self) -> None:
        connection: Any = None
        while not self._stop.is_set():
            try:
                self._asked_at = time.monotonic()
                connection = connection or _connect(self._database_url)
                champions = _champions(connection)
            except Exception as error:  # noqa: BLE001  whatever it is: the last good models go on, and it is said
                self._asked_at = None
                self._ledger_lost(error)
                if connection is not None:
                    with contextlib.suppress(Exception):
                        connection.close()
                connection = None
            else:
                self._asked_at = None
                self._ledger_read(champions)
            self._metrics.degraded.set(self.status != "ok")
            self._asked_once.set()
            self._stop.wait(self._poll_seconds)
        if connection is not None:
            connection.close()

    def _ledger_lost(self, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if self._ledger_error != reason:
            log.error("ledger unreachable", extra={"fields": {"reason": reason}})
        self._ledger_error = reason

    def _ledger_read(self, champions: list[Champion]) -> None:
        if self._ledger_error:
            log.info("ledger read", extra={"fields": {"champions": len(champions)}})
        self._ledger_error = None
        self._champions = {champion.model: champion for champion in champions}
        for champion in champions:
            self._take(champion)

    # ------------------------------------------------------------------------------------------- swapping

    def _take(self, champion: Champion) -> None:
        current, refusal = self.get(champion.model), self._refused.get(champion.model)
        if current and current.champion == champion:
            if refusal:
                self._forget_refusal(champion.model)
            return
        if refusal and refusal.champion == champion and time.monotonic() < refusal.again:
            return
        try:
            if current and current.champion.content_hash == champion.content_hash:
                predictor = current.predictor
            else:
                predictor = self._fetch(champion)
            self._remember(champion)
            self._swap(champion, predictor, "ledger")
            self._drop_old_copies(champion)
        except Exception as error:  # noqa: BLE001  whatever it is: what answers goes on answering, and it is said
            self._refuse(champion, error, refusal)

    def _fetch(self, champion: Champion) -> Predictor:
        if self._copies is None:
            raise served_form.BadServedForm("there is no folder for the copies of served forms: set MLOPS_HOME")
        return _load(fetch(champion.url, _copy(self._copies, champion), champion.content_hash), champion)

    def _swap(self, champion: Champion, predictor: Predictor, origin: str) -> None:
        old = self.get(champion.model)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        self._loaded = {**self._loaded, champion.model: Loaded(champion, predictor, origin, now)}
        self._forget_refusal(champion.model)
        self._metrics.version.labels(champion.model).set(champion.version)
        self._metrics.swaps.labels(champion.model).inc()
        log.info("swapped", extra={"fields": {**asdict(champion), "from": old and old.version, "origin": origin}})

    def _forget_refusal(self, model: str) -> None:
        self._refused.pop(model, None)
        self._metrics.behind.labels(model).set(0)

    def _refuse(self, champion: Champion, error: Exception, before: Refusal | None) -> None:
        attempts = before.attempts + 1 if before and before.champion == champion else 1
        reason = " ".join(str(error).split()) or type(error).__name__
        again = time.monotonic() + min(60.0, 2.0 ** min(attempts, 6))
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._refused = {**self._refused, champion.model: Refusal(champion, reason, now, attempts, again)}
        self._metrics.behind.labels(champion.model).set(1)
        self._metrics.not_swapped.labels(champion.model).inc()
        log.error("not swapped", extra={"fields": {**asdict(champion), "reason": reason, "attempt": attempts}})

    def _remember(self, champion: Champion) -> None:
        if self._copies is not None:
            known = {entry.model: entry for entry in _remembered(self._copies)} | {champion.model: champion}
            text = json.dumps([asdict(entry) for entry in known.values()], indent=1)
            storage.write_bytes(str(self._copies / CHAMPIONS), text.encode())

    def _drop_old_copies(self, champion: Champion) -> None:
        if self._copies is None:
            return
        copies = [
            p for p in (self._copies / champion.model).iterdir() if p.is_dir() and p.name != champion.content_hash
        ]
        copies.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        for old in copies[KEPT_COPIES - 1 :]:
            shutil.rmtree(old, ignore_errors=True)


def write_bundle(folder: Path, form: served_form.ServedForm, champion: Champion) -> None:
    """Lay a served form down as a Bento bundles it: what `Models(bundled=folder)` starts with."""
    shutil.copytree(form.directory, _copy(folder, champion))
    (folder / CHAMPIONS).write_text(json.dumps([asdict(champion)], indent=1), encoding="utf-8")


def fetch(url: str, directory: Path, content_hash: str) -> served_form.ServedForm:
    """The served form at `url` as a verified local folder; a whole copy that is there already is used.

    Only the files that the manifest names are read, each by its hash; nothing else that lies at `url` is touched.

    Raises:
        StorageError: a file is missing or is not the one of its hash.
        BadServedForm: the manifest is of another version, or names a file outside the folder.
    """
    with contextlib.suppress(served_form.BadServedForm):
        return served_form.verify(directory, content_hash)
    raw = storage.read_bytes(storage.join(url, served_form.MANIFEST), content_hash)
    files: dict[str, str] = json.loads(raw)["files"]
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise served_form.BadServedForm(f"{url}: the manifest names {name!r}, which lies outside its folder")
    temporary = directory.with_name(f".{directory.name[:16]}.{uuid.uuid4().hex[:8]}")
    try:
        for name, sha256 in files.items():
            storage.write_bytes(str(temporary / name), storage.read_bytes(storage.join(url, name), sha256))
        storage.write_bytes(str(temporary / served_form.MANIFEST), raw)
        served_form.verify(temporary, content_hash)
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return served_form.verify(directory, content_hash)


def _load(form: served_form.ServedForm, champion: Champion, seconds: float = LOAD_SECONDS) -> Predictor:
    """Load and replay in a thread of its own, so that a definition that never returns is given up."""
    if form.manifest.get("model") != champion.model:
        raise served_form.BadServedForm(f"this is a form of {form.manifest.get('model')}, not of {champion.model}")
    outcome: list[Predictor | Exception] = []

    def load() -> None:
        try:
            predictor = Predictor.load(form)
            predictor.replay_golden()
            outcome.append(predictor)
        except Exception as error:  # noqa: BLE001  raised again below, in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=load, name="load-model", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise GoldenMismatch(f"too slow: loading and answering the golden rows took more than {seconds:g} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _copy(folder: Path, champion: Champion) -> Path:
    return folder / champion.model / champion.content_hash


def _remembered(folder: Path | None) -> Iterator[Champion]:
    if folder is None or not (folder / CHAMPIONS).is_file():
        return
    try:
        entries = [Champion(**entry) for entry in json.loads((folder / CHAMPIONS).read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        log.warning(
            "last good copies unreadable", extra={"fields": {"file": str(folder / CHAMPIONS), "reason": str(error)}}
        )
        return
    yield from entries


def _connect(url: str) -> Any:
    import psycopg

    return psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=3,
        application_name="mlops-serving",
        options="-c statement_timeout=3000",
        keepalives_idle=5,
        tcp_user_timeout=5000,
    )


def _champions(connection: Any) -> list[Champion]:
    rows = connection.execute(
        "select model, version, content_hash, url, bento, ledger_id from champions order by model"
    )
    return [Champion(*row) for row in rows]


def _describe(model: str, loaded: Loaded | None, refusal: Refusal | None) -> dict[str, Any]:
    described: dict[str, Any] = {"model": model, "version": None, "refused": None}
    if loaded:
        manifest = loaded.predictor.manifest
        described |= asdict(loaded.champion) | {"origin": loaded.origin, "loaded_at": loaded.loaded_at}
        del described["url"]
        described |= {
            key: manifest.get(key) for key in ("task", "target", "estimator", "metric", "metrics", "created_at")
        }
    if refusal:
        described["refused"] = {
            "version": refusal.champion.version,
            "content_hash": refusal.champion.content_hash,
            "ledger_id": refusal.champion.ledger_id,
            "reason": refusal.reason,
            "at": refusal.at,
            "attempts": refusal.attempts,
        }
    return described
