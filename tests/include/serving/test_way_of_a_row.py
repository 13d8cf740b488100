"""The table in the package's docstring is the way that a row takes, and the way gets no longer."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from include import serving
from tests.conftest import ROOT
from tests.include.serving.crafted import ROWS
from tests.include.serving.http.test_application import application_of

MOST_FILES = 21
"""Of serving and inference, from a request's begin to its count, without the transport and the disk. To be lowered."""


class Reply:
    """Where the fast path puts its answer."""

    status = 0

    def __init__(self, sent: asyncio.Event) -> None:
        self._sent = sent

    def prepare(self, status: int, body: bytes, headers: Any) -> None:
        self.status = status

    def send(self) -> None:
        self._sent.set()


def crossed(folder: Path) -> set[str]:
    """The files in which something is called while a row is answered and counted."""
    app, found = application_of(folder), set()
    body = json.dumps(ROWS[5]).encode()
    headers = [(b"host", b"x"), (b"authorization", b"Bearer secret"), (b"content-type", b"application/json")]

    def profile(frame: Any, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith((f"{ROOT}/include/serving", f"{ROOT}/include/inference")):
            found.add(str(Path(path).relative_to(ROOT / "include")))

    async def answer() -> int:
        sent = asyncio.Event()
        reply = Reply(sent)
        assert app.takes(b"/predict")
        assert app.begin(b"/predict", headers, body, ("127.0.0.1", 1), reply) is None
        await sent.wait()
        app.count()
        return reply.status

    asyncio.run(answer())  # what is compiled at the first row is no part of the way
    sys.setprofile(profile)
    try:
        assert asyncio.run(answer()) == 200
    finally:
        sys.setprofile(None)
    return found


def test_every_file_that_a_row_crosses_is_in_the_table(tmp_path: Path) -> None:
    way = (serving.__doc__ or "").partition("What is not on")[0]
    named = set(re.findall(r"[a-z_]+", way))
    files = crossed(tmp_path)
    assert {"serving/http/application.py", "serving/batching/micro_batcher.py", "inference/predictor.py"} < files
    aside = {"serving/control/reconciler.py"}  # which only has the routes
    assert sorted(f for f in files - aside if "schema/" not in f and Path(f).stem not in named) == []
    assert len(files) <= MOST_FILES, sorted(files)


def test_every_name_in_the_table_is_a_file() -> None:
    folders = (ROOT / "include/serving", ROOT / "include/inference")
    files = {path.stem for folder in folders for path in folder.rglob("*.py")}
    assert sorted(set(re.findall(r"[a-z0-9]+_[a-z_]+", serving.__doc__ or "")) - files - {"prediction_log"}) == []
