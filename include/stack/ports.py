"""The ports of a stack: chosen at its first start, remembered, and explained when something else holds one."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

HOST = "127.0.0.1"
DEFAULTS = {"airflow": 8080, "mlflow": 5000, "serving": 3000, "postgres": 54320}


class PortError(RuntimeError):
    """A port is in use or is not a port; the message says which, by whom, and which variable to set."""


@dataclass(frozen=True)
class Choice:
    """A port for each part, and what to tell the user about those that are not the usual ones."""

    ports: dict[str, int]
    notices: tuple[str, ...]


def variable(part: str) -> str:
    """The environment variable that sets a part's port."""
    return f"MLOPS_{part.upper()}_PORT"


def explicit(environ: Mapping[str, str]) -> dict[str, int]:
    """The ports that the environment asks for.

    Raises:
        PortError: a value is not a port, or two parts share one.
    """
    chosen: dict[str, int] = {}
    for part in DEFAULTS:
        text = environ.get(variable(part), "").strip()
        if not text:
            continue
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise PortError(f"{variable(part)}={text!r} is not a port: give a number from 1 to 65535")
        if int(text) in chosen.values():
            other = next(p for p, number in chosen.items() if number == int(text))
            raise PortError(f"{variable(other)} and {variable(part)} are both {text}: give each its own")
        chosen[part] = int(text)
    return chosen


def choose(requested: Mapping[str, int], remembered: Mapping[str, int]) -> Choice:
    """A free port for each part: as asked, else as remembered, else the usual one, else the next free one.

    Raises:
        PortError: one that was asked for or remembered is in use.
    """
    ports: dict[str, int] = {}
    notices: list[str] = []
    for part, usual in DEFAULTS.items():
        port = requested.get(part) or remembered.get(part)
        if port:
            if is_taken(port):
                raise PortError(
                    f"port {port} ({part}) is in use by {holder(port)}:"
                    f" stop that, or set {variable(part)} to a free port"
                )
            ports[part] = port
            continue
        reserved = {*requested.values(), *remembered.values(), *ports.values()}
        port = next((p for p in range(usual, min(usual + 500, 65536)) if p not in reserved and not is_taken(p)), None)
        if port is None:
            raise PortError(f"no free port from {usual} on for {part}: set {variable(part)}")
        if port != usual:
            notices.append(
                f"port {usual} is in use by {holder(usual)}: {part} uses {port} ({variable(part)} sets another)"
            )
        ports[part] = port
    return Choice(ports, tuple(notices))


def is_taken(port: int) -> bool:
    """Whether something on this machine listens there."""
    with socket.socket() as sock:
        sock.settimeout(1)
        if sock.connect_ex((HOST, port)) == 0:
            return True
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return True
    return False


def holder(port: int) -> str:
    """Who listens there, as far as this user may know."""
    try:
        listening = psutil.net_connections("tcp")
    except psutil.Error:
        listening = []
    for connection in listening:
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        ):
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.Error:
                break
    return "another program"
