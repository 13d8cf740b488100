"""JSON documents in the folder of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from include import storage


def write(path: Path, document: Any) -> None:
    """Write a document, at once or not at all; a number that is not finite is an error."""
    storage.write_bytes(str(path), json.dumps(document, allow_nan=False, indent=1).encode())


def read(path: Path) -> Any:
    """What a document contains."""
    return json.loads(path.read_bytes())
