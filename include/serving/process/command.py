"""How the prediction service is started: the command and the environment it needs, for the stack and for the tests.

    MLOPS_SERVING_KEY               a key with every scope; without one there must be keys in <home>/serving/keys.json
    MLOPS_SERVING_OPEN=1            or this: answer anybody
    MLOPS_SERVING_WORKERS           how many workers, instead of params.yaml's `service.workers`
    MLOPS_SERVING_CERTIFICATE       TLS: the certificate's file (PEM, with its chain; on a stack valid for 127.0.0.1) …
    MLOPS_SERVING_CERTIFICATE_KEY   … and its private key's
    MLOPS_SERVING_HOT_PATH=off      BentoML's typed API answers, to compare

Standard library only: the launcher, which must start at once and stay small, imports it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from include import home

SERVICE = "bentofiles.prediction.service:Prediction"
STOP_SECONDS = 15
"""After SIGTERM: when whoever started the service may kill it. The launcher kills its workers a second before."""


class CannotStart(RuntimeError):
    """The service is not to be started so; the message says what to set."""


def serve_command(port: int, root: Path, host: str = "127.0.0.1") -> list[str]:
    """The command that serves from a checkout at `root`; in the foreground, ended by SIGTERM."""
    command = [sys.executable, "-m", "include.serving.process.supervisor", "--root", str(root)]
    return [*command, "--host", host, "--port", str(port)]


def serve_environment(bentoml_home: Path, *, key: str, root: Path) -> Mapping[str, str]:
    """What the service needs beside the `MLOPS_*` variables of the platform: nothing is sent home, nothing is open."""
    return {
        "BENTOML_HOME": str(bentoml_home),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLOPS_SERVING_KEY": key,
        "PYTHONPATH": str(root),
    }


def check_keys(environment: Mapping[str, str], root: Path) -> None:
    """Refuse to listen without a key: nobody could use the service, or everybody, and nobody said which.

    Raises:
        CannotStart: there is no key, and nobody asked for an open service.
    """
    if environment.get("MLOPS_SERVING_KEY") or environment.get("MLOPS_SERVING_OPEN") == "1":
        return
    file = home.Home(home.of(environment, root)).serving_keys
    try:
        if json.loads(file.read_bytes())["keys"]:
            return
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"the prediction service does not start: {file} cannot be used ({error})") from None
    raise CannotStart(
        "the prediction service has no key and does not start: set MLOPS_SERVING_KEY (clients send it as"
        " `Authorization: Bearer <key>`), make keys by `mlops keys add`, or set MLOPS_SERVING_OPEN=1 to answer anybody"
    )


def certificate(environment: Mapping[str, str]) -> tuple[Path, Path] | None:
    """The files of the certificate and its private key; None: no TLS.

    Raises:
        CannotStart: one of the two is not set, or cannot be read.
    """
    names = ("MLOPS_SERVING_CERTIFICATE", "MLOPS_SERVING_CERTIFICATE_KEY")
    values = [environment.get(name) for name in names]
    if not any(values):
        return None
    files = []
    for name, value in zip(names, values, strict=True):
        if not value:
            raise CannotStart(f"TLS needs both {names[0]} and {names[1]}; {name} is not set")
        files.append(Path(value).absolute())
    for name, file in zip(names, files, strict=True):
        if not os.access(file, os.R_OK):
            raise CannotStart(f"{name}: {file} cannot be read")
    return files[0], files[1]
