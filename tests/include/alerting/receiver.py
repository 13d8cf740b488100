"""A real HTTP server that receives notifications, and answers as a test wants it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.conftest import free_port

SECRET = "hushhush"
"""The password and the path of its URL."""


class Receiver:
    """Listens on one port while it is `up`; what it accepted is in `messages`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.messages: list[str] = []
        self.attempts: list[str] = []
        self.answer: Callable[[str], int] = lambda message: 200
        """Called with each message before it is answered; returns the status."""

    @property
    def url(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/{SECRET}/path"

    @contextmanager
    def up(self) -> Iterator[None]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["content-length"])))
                message = content["message"].splitlines()[0]
                receiver.attempts.append(message)
                status = receiver.answer(message)
                if status == 200:
                    receiver.messages.append(message)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
