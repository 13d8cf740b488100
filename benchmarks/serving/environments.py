"""The environments of contenders that cannot live in the platform's: made by uv from a lock file with hashes, kept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LOCKS = Path(__file__).parent
_VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


class NotInstalled(RuntimeError):
    """An environment could not be made; the message holds what the installer said."""


def python(name: str, folder: Path) -> Path:
    """The interpreter of an environment below `folder`, made or brought up to date where needed; "" is our own.

    Raises:
        NotInstalled: with the installer's own words.
    """
    if not name:
        return Path(sys.executable)
    lock, place = LOCKS / f"requirements-{name}.txt", folder / name
    mark, wanted = place / "installed", hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    interpreter = place / "bin" / "python"
    if mark.exists() and mark.read_text() == wanted:
        return interpreter
    uv = str(Path(sys.executable).with_name("uv"))
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)])
    _run([uv, "pip", "sync", "--quiet", "--python", str(interpreter), "--require-hashes", str(lock)])
    mark.write_text(wanted)
    return interpreter


def versions(interpreter: Path, packages: Sequence[str]) -> dict[str, str]:
    """The installed versions of some packages."""
    found = subprocess.run([str(interpreter), "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True)
    return dict(json.loads(found.stdout))


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise NotInstalled(f"`{' '.join(command[1:4])}` failed: {result.stderr.strip()[-800:]}")
