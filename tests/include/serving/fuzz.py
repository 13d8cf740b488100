"""Fuzzes every parser of ours with mutations of good inputs, each with a bound on its time, all with one on memory.

    python -m tests.include.serving.fuzz --inputs 20000 --seed 1 [--only parquet arrow row …]

A finding is an answer of 500, an exception that is no refusal, or an input that took longer than its bound. What ends
or exhausts the process that reads tables is contained by design, and counted apart. The same seed makes the same
inputs; a finding is printed with its number, so that it can be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from include.formulas import Formula, FormulaError
from include.inference.errors import Refused
from include.inference.schema import ARROW, JSON, PARQUET
from include.serving.http.application import Application
from include.serving.http.table_process import TableProcess
from tests.include.inference.test_columnar import SCHEMA, TABLE, WRITERS
from tests.include.serving.crafted import ROWS
from tests.include.serving.http.test_application import application_of

SECONDS = 5.0
"""For one input, on a machine that has other things to do; what is meant takes milliseconds."""
GIGABYTES = 3
TOKENS = [
    b"null", b"true", b"-0", b"1e400", b"-1e-400", b"NaN", b"Infinity", b"9" * 400, b"9" * 5000, b"0x10", b"1.", b".5",
    b'""', b'"\\u0000"', b'"\\ud800"', b'"\\""', b"[[[[", b"{}", b"[]", b"{" * 200, b"[" * 5000, b",", b":", b'"',
    b"\\", b"\xff", b"\xef\xbb\xbf", b"\x00", b"\r\n", b'"2018-02-30T25:61:00Z"', b'"9999-12-31T23:59:59+14:00"',
    b"**", b"//", b"where(", b"timestamp(", b"1e308", b"-2147483648", b"9223372036854775808", b" " * 300,
]  # fmt: skip
NUMBERS = [
    0,
    1,
    -1,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
]

Take = Callable[[bytes], Awaitable[str]]


@dataclass
class Target:
    """A parser: good inputs, and how one is taken; the word that comes back is what became of it."""

    name: str
    seeds: Sequence[bytes]
    take: Take


@dataclass
class Result:
    """What a target made of its inputs."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    became: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


class _TooLong(BaseException):
    """An input has used up its time."""


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """A good input with up to six changes: bits, bytes, numbers, tokens, pieces left out, doubled or of another one."""
    body = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        place, length = chance.randrange(len(body) + 1), chance.choice((1, 1, 2, 4, 8, 16, 64))
        kind = chance.randrange(8)
        if kind == 0 and place < len(body):
            body[place] ^= 1 << chance.randrange(8)
        elif kind == 1 and place < len(body):
            body[place] = chance.randrange(256)
        elif kind == 2:
            number = struct.pack("<q", chance.choice(NUMBERS))[: chance.choice((1, 2, 4, 8))]
            body[place : place + len(number)] = number
        elif kind == 3:
            body[place:place] = chance.choice(TOKENS)
        elif kind == 4:
            body[place : place + length] = chance.choice(TOKENS)
        elif kind == 5:
            del body[place : place + length]
        elif kind == 6:
            body[place:place] = body[place : place + length] * chance.choice((1, 2, 50))
        else:
            other = chance.choice(seeds)
            start = chance.randrange(len(other) + 1)
            body[place : place + length] = other[start : start + length]
    return bytes(body[: 1 << 20])


async def fuzz(target: Target, inputs: int, seed: int) -> Result:
    """Let a parser take so many inputs."""
    chance, result = random.Random(f"{seed} {target.name}"), Result(target.name)
    began = time.monotonic()
    for number in range(inputs):
        body = mutated(target.seeds, chance) if number >= len(target.seeds) else target.seeds[number]
        at = time.perf_counter()
        try:
            with _bounded(SECONDS):
                became = await target.take(body)
        except _TooLong:
            became = "too long"
        except Exception as error:  # noqa: BLE001  that is what is looked for
            became = f"{type(error).__name__}: {error}"[:200]
        result.slowest_ms = max(result.slowest_ms, 1e3 * (time.perf_counter() - at))
        word = became if became in ("answered", "refused", "contained") else "finding"
        result.became[word] = result.became.get(word, 0) + 1
        if word == "finding":
            result.findings.append(f"{target.name} #{number} (seed {seed}): {became}; {body[:300]!r}")
        elif number < len(target.seeds) and word != "answered":
            result.findings.append(f"{target.name} #{number}: a good input was {became}")
        result.inputs += 1
    result.seconds = time.monotonic() - began
    return result


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------ the parsers


def targets(folder: Path, reader: TableProcess) -> list[Target]:
    """All of them; the models are made in `folder`."""
    strict = application_of(folder / "strict", unknown="error")
    row, first = ROWS[5], {name: [value] for name, value in ROWS[5].items()}
    rows = [json.dumps(row).encode(), json.dumps(row, indent=1, ensure_ascii=False).encode()]
    batches = [json.dumps({"rows": ROWS[:3]}).encode(), json.dumps({"columns": first}).encode()]
    label = {"prediction_id": "0190f3c2a1b400000000000000000001", "label": 1.5, "at": "2026-03-02T08:30:00Z"}
    labels = [json.dumps(label).encode(), json.dumps({"labels": [label, {"entity": "a", "label": 2}]}).encode()]
    return [
        Target("row", rows, _post(strict, "/models/trips/predict")),
        Target("batch", batches, _post(strict, "/models/trips/batch-predict")),
        Target("v2", _inference_requests(row), _post(strict, "/v2/models/trips/infer")),
        Target("feedback", labels, _post(strict, "/models/trips/feedback")),
        Target("formula", _FORMULAS, _formula),
        *_tables(reader),
    ]


def _post(app: Application, path: str) -> Take:
    async def take(body: bytes) -> str:
        headers = [(b"authorization", b"Bearer secret"), (b"content-type", JSON.encode()), (b"host", b"x")]
        if path.endswith("infer") and (cut := body.find(b"\x00BINARY\x00")) >= 0:
            headers.append((b"inference-header-content-length", b"%d" % cut))
            body = body.replace(b"\x00BINARY\x00", b"")
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        status = sent[0]["status"]
        json.loads(sent[1]["body"])
        return "answered" if status == 200 else "refused" if 400 <= status < 500 else f"status {status}"

    return take


def _inference_requests(row: dict[str, Any]) -> list[bytes]:
    types = {float: "FP64", int: "INT64", bool: "BOOL", str: "BYTES"}
    tensors: list[dict[str, Any]] = [
        {"name": n, "datatype": types[type(v)], "shape": [1], "data": [v]} for n, v in row.items()
    ]
    plain = json.dumps({"id": "1", "inputs": tensors, "outputs": [{"name": "prediction"}]}).encode()
    binary, packed = [dict(tensor) for tensor in tensors], b""
    for tensor, value in zip(binary, row.values(), strict=True):
        del tensor["data"]
        text = value.encode() if isinstance(value, str) else b""
        bits = struct.pack("<I", len(text)) + text if isinstance(value, str) else {
            "FP64": lambda v: struct.pack("<d", v), "INT64": lambda v: struct.pack("<q", v),
            "BOOL": lambda v: struct.pack("?", v),
        }[tensor["datatype"]](value)  # fmt: skip
        tensor["parameters"] = {"binary_data_size": len(bits)}
        packed += bits
    return [plain, json.dumps({"inputs": binary}).encode() + b"\x00BINARY\x00" + packed]


_COLUMNS = {
    "a": np.array([1.0, np.nan, -2.5]),
    "b": np.array([0.0, 4.0, 1e300]),
    "t": np.array(["2018-01-01T00:00", "NaT", "2018-02-01T12:30"], dtype="datetime64[us]"),
    "s": np.array(["x", None, "y"], dtype=object),
}
_FORMULAS = [
    b"a / (b + 1) ** 2 - clip(a, 0, 10)",
    b"where(isnull(a), 0, minutes(t - timestamp(2018, 1, 1, 0, 30)))",
    b"s == 'x' and not (1 < a <= 3) or hour(t) % 6 // 2 > 1",
]


async def _formula(body: bytes) -> str:
    try:
        Formula(body.decode("utf-8", "replace")).evaluate(_COLUMNS)
    except FormulaError:
        return "refused"
    return "answered"


def _tables(reader: TableProcess) -> Iterator[Target]:
    for kind in (ARROW, PARQUET):
        seeds = [write(TABLE) for sent, write in WRITERS.values() if sent == kind]

        async def take(body: bytes, kind: str = kind) -> str:
            try:
                SCHEMA.many(body, kind, reader)
            except Refused as refused:
                if refused.code in ("too_costly", "timeout") or "ended the process" in refused.message:
                    return "contained"
                return "refused" if refused.status < 500 else f"{refused.status} {refused.code}"
            return "answered"

        yield Target("parquet" if kind == PARQUET else "arrow", seeds, take)


def run(inputs: int, seed: int, only: Sequence[str] = ()) -> list[Result]:
    """Fuzz the parsers, one after the other."""

    async def all_of_them(folder: Path, reader: TableProcess) -> list[Result]:
        return [await fuzz(t, inputs, seed) for t in targets(folder, reader) if not only or t.name in only]

    reader = TableProcess(SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return asyncio.run(all_of_them(Path(folder), reader))
        finally:
            reader.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="for each parser")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=())
    asked = parser.parse_args()
    warnings.simplefilter("ignore", SyntaxWarning)  # of Python's parser, about 1if
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, hard))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = run(asked.inputs, asked.seed, asked.only)
    for result in found:
        said = ", ".join(f"{word} {count}" for word, count in sorted(result.became.items()))
        line = (
            f"{result.target:10} {result.inputs:8} inputs {result.seconds:8.1f} s, slowest {result.slowest_ms:7.1f} ms"
        )
        sys.stdout.write(f"{line}: {said}; {len(result.findings)} findings\n")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    sys.stdout.write(f"{sum(r.inputs for r in found)} inputs in {sum(r.seconds for r in found):.0f} s;")
    sys.stdout.write(f" memory grew by {grown} MB\n")
    findings = [line for result in found for line in result.findings]
    sys.stdout.write("".join(f"{line}\n" for line in findings[:20]))
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
