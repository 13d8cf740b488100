"""How the prediction service is started: the command and the environment it needs, for the stack and for the tests."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

SERVICE = "bentofiles.prediction.service:Prediction"


def serve_command(port: int, root: Path, host: str = "127.0.0.1") -> list[str]:
    """The command that serves from a checkout at `root`; in the foreground, ended by SIGTERM."""
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--working-dir", str(root)]
    return [*command, "--host", host, "--port", str(port), "--timeout-graceful-shutdown", "10"]


def serve_environment(bentoml_home: Path, *, key: str, root: Path) -> Mapping[str, str]:
    """What the service needs beside the `MLOPS_*` variables of the platform: nothing is sent home, nothing is open."""
    return {
        "BENTOML_HOME": str(bentoml_home),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLOPS_SERVING_KEY": key,
        "PYTHONPATH": str(root),
    }
