"""A contender that runs: started, timed until its first right answer, checked, loaded, and looked at."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.serving import load
from benchmarks.serving.contenders import HOST, Contender, Place, Row
from benchmarks.serving.ledger import Ledger
from benchmarks.serving.processes import SERVER_CORE, NotStarted, Tree, free_port, machine_cpu, running

MANY = 100
"""Rows of a large request."""
ONES, MANIES = 512, 64
"""How many different requests of each size go round."""
START_SECONDS = 90.0
TOLERANCE = 1e-5
"""Relative; of the answers against the booster's own."""
BUSY_SHARE = 0.05
"""A process with less than this of its tree's processor time under load supervises, or helps."""


class WrongAnswer(RuntimeError):
    """A contender answers, but not what the model says."""


@dataclass(frozen=True)
class Cell:
    """What is asked for, and by how many at once."""

    rows: int
    connections: int

    @property
    def name(self) -> str:
        """As it stands in the report."""
        return f"{'one row' if self.rows == 1 else f'{self.rows} rows'}, {self.connections} at once"


@dataclass(frozen=True)
class Measured:
    """One run of one cell; latencies in ms, processor time in µs per request."""

    throughput: float
    p50: float
    p99: float
    cpu: float
    """Of the server's processes, what they did after the last answer included."""
    busy: float
    """How much of a core they used while the load ran."""
    generator_cpu: float
    """Of the load generator."""
    generator_busy: float
    """How much of a core it used."""
    ledger_busy: float
    """How much of a core PostgreSQL used, where ours stands on one."""
    others_busy: float
    """How many cores everybody else on this machine used meanwhile: on a quiet one next to nothing."""
    answered: int
    acknowledged: int
    failed: int
    settled: float
    """Seconds after the last answer until the server was at rest, its prediction log copied."""
    recorded: int | None
    """Rows of the run that are in PostgreSQL; None where nothing is logged."""
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Megabytes: resident, and proportional where the system tells."""

    workers: list[float]
    others: list[float]
    workers_proportional: list[float]
    others_proportional: list[float]


class Asked:
    """The same rows as each contender wants to be asked, and what the model answers."""

    def __init__(self, model: Path) -> None:
        document = json.loads((model / "rows.json").read_bytes())
        self.rows: list[Row] = document["rows"]
        self.predictions: list[float] = document["predictions"]

    def batch(self, number: int) -> slice:
        """The rows of the many-row request of that number."""
        start = (number * 31) % (len(self.rows) - MANY)
        return slice(start, start + MANY)


class Server:
    """A started contender."""

    def __init__(
        self, contender: Contender, tree: Tree, place: Place, asked: Asked, startup: float, ledger: Ledger | None
    ) -> None:
        self.contender, self.tree, self.place, self.asked, self.startup = contender, tree, place, asked, startup
        self._ledger = ledger
        self._at_rest = tree.cpu()

    @cached_property
    def ones(self) -> list[bytes]:
        """Requests of one row."""
        return [_one(self.contender, row) for row in self.asked.rows[:ONES]]

    @cached_property
    def manies(self) -> list[bytes]:
        """Requests of many rows."""
        speaks = self.contender.dialect
        bodies = [speaks.many(self.asked.rows[self.asked.batch(number)]) for number in range(MANIES)]
        return [load.request(speaks.many_path, json.dumps(b).encode(), dict(speaks.headers)) for b in bodies]

    def predictions(self, rows: Sequence[Row], *, many: bool) -> list[float]:
        """What it answers to rows, asked one by one or all at once."""
        speaks = self.contender.dialect
        if many:
            return speaks.read_many(_ask(self.place.port, speaks.many_path, speaks.many(list(rows)), speaks.headers))
        return [
            speaks.read_one(_ask(self.place.port, speaks.one_path, speaks.one(row), speaks.headers)) for row in rows
        ]

    def check(self) -> None:
        """Hold its answers against the model's.

        Raises:
            WrongAnswer: naming the first difference.
        """
        few, batch = slice(0, 20), self.asked.batch(1)
        for rows, many in ((few, False), (batch, True)):
            answers = self.predictions(self.asked.rows[rows], many=many)
            expected = self.asked.predictions[rows]
            if len(answers) != len(expected):
                raise WrongAnswer(f"{len(answers)} answers to {len(expected)} rows")
            for number, (answer, right) in enumerate(zip(answers, expected, strict=True)):
                if not abs(answer - right) <= TOLERANCE * abs(right):
                    raise WrongAnswer(f"row {number} of {'a batch' if many else 'one'}: {answer}, the model: {right}")

    def run(self, cell: Cell, *, seconds: float, warm_up: float = 0.5, until: Any = None) -> Measured:
        """Put it under load, and wait until it is at rest again."""
        if self._ledger:
            self._ledger.forget()
        edges: list[tuple[float, float, float]] = []
        mine, theirs = self.tree.members(), self._ledger.tree.members() if self._ledger else []
        before = self._spent()
        result = load.run(
            self.place.port,
            self.ones if cell.rows == 1 else self.manies,
            connections=cell.connections,
            seconds=seconds,
            warm_up=warm_up,
            at_edge=lambda: edges.append((_sum(self.tree.cpu(mine)), _sum(self.tree.cpu(theirs)), machine_cpu())),
            until=until,
        )
        settled, recorded = self._settle(result.acknowledged * cell.rows)
        served, ledgers, everybody = (b - a for a, b in zip(*edges, strict=True))
        asked = max(result.acknowledged + result.failed, 1)
        return Measured(
            throughput=result.throughput,
            p50=result.percentile(0.5) * 1e3,
            p99=result.percentile(0.99) * 1e3,
            cpu=(self._spent() - before) / asked * 1e6,
            busy=served / result.seconds,
            generator_cpu=result.cpu / max(result.answered, 1) * 1e6,
            generator_busy=result.cpu / result.seconds,
            ledger_busy=ledgers / result.seconds,
            others_busy=max(0.0, everybody - served - ledgers - result.cpu) / result.seconds,
            answered=result.answered,
            acknowledged=result.acknowledged,
            failed=result.failed,
            settled=settled,
            recorded=recorded,
            errors=result.errors,
        )

    def memory(self) -> Memory:
        """What it holds, the processes that work apart from those that look after them."""
        spent, held = self.tree.cpu(), self.tree.memory()
        spent = {pid: seconds - self._at_rest.get(pid, 0.0) for pid, seconds in spent.items()}
        total = _sum(spent) or 1.0
        parts: dict[bool, list[tuple[float, float | None]]] = {True: [], False: []}
        for pid, memory in held.items():
            parts[len(held) == 1 or spent.get(pid, 0.0) / total >= BUSY_SHARE].append(memory)
        return Memory(
            [resident for resident, _ in parts[True]],
            [resident for resident, _ in parts[False]],
            [p for _, p in parts[True] if p is not None],
            [p for _, p in parts[False] if p is not None],
        )

    def _spent(self) -> float:
        return _sum(self.tree.cpu())

    def _settle(self, acknowledged: int, limit: float = 120.0) -> tuple[float, int | None]:
        """Wait until all that was acknowledged is in PostgreSQL, and the processor is left alone."""
        began, recorded = time.monotonic(), None
        if self._ledger:
            recorded, moved = -1, began
            while recorded < acknowledged and time.monotonic() - moved < 5 and time.monotonic() - began < limit:
                now = self._ledger.recorded()
                if now != recorded:
                    recorded, moved = now, time.monotonic()
                time.sleep(0.05)
            took = (moved if recorded < acknowledged else time.monotonic()) - began
        else:
            took = 0.0
        spent = self._spent()
        while time.monotonic() - began < limit:
            time.sleep(0.2)
            before, spent = spent, self._spent()
            if spent - before <= 0.02:
                break
            took = time.monotonic() - began
        return took, recorded


@contextmanager
def started(
    contender: Contender,
    *,
    root: Path,
    python: Path,
    model: Path,
    home: Path,
    asked: Asked,
    environment: Mapping[str, str],
    cores: Sequence[int] = (SERVER_CORE,),
    ledger: Ledger | None = None,
) -> Iterator[Server]:
    """Start a contender on its core, and wait for its first right answer.

    Raises:
        NotStarted: it ended, or gave no good answer in time.
        WrongAnswer: it answers something else than the model.
    """
    place = Place(root, python, model, home, free_port())
    contender.prepare(place)
    variables = {**_inherited(python), "PYTHONPATH": str(root), "BENCHMARK_MODEL": str(model), **environment}
    first = _one(contender, asked.rows[0])
    with running(contender.command(place), variables, home, cores=cores) as tree:
        startup = tree.wait_until(lambda: _answers(place.port, first), START_SECONDS)
        server = Server(contender, tree, place, asked, startup, ledger)
        server.check()
        yield server


def _inherited(python: Path) -> dict[str, str]:
    """The machine's environment without what would configure one contender and not the other."""
    theirs = ("MLOPS_", "MLFLOW_", "BENTOML_", "MLSERVER_", "PYTHON", "OMP_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return {**kept, **quiet, "PATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _one(contender: Contender, row: Row) -> bytes:
    speaks = contender.dialect
    return load.request(speaks.one_path, json.dumps(speaks.one(row)).encode(), dict(speaks.headers))


def _answers(port: int, request: bytes) -> bool:
    """Whether it answers 200 by now; cheap, as it is asked every few milliseconds."""
    import socket

    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(64)[9:12] == b"200"
    except OSError:
        return False


def _ask(port: int, path: str, document: Any, headers: Mapping[str, str]) -> Any:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise NotStarted(f"{path} answered {answer.status}: {body[:500].decode(errors='replace')}")
        return json.loads(body)
    finally:
        connection.close()


def _sum(spent: Mapping[int, float]) -> float:
    return sum(spent.values())


def plain(measured: Measured | Memory) -> dict[str, Any]:
    """As it is written to JSON."""
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(measured).items()}
