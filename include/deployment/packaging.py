"""Packs a candidate: its served form where the service downloads it from, and a Bento that answers by itself.

The only caller of `bentoml build`, which runs in a process and a build context of its own: it imports the service, and
must not meet what else this process has imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from include import storage
from include.inference.served_form import MANIFEST, ServedForm
from include.serving.versions.disk_cache import write_bundle
from include.serving.versions.version import Champion
from include.source_files import imported_modules

SERVICE = "bentofiles/prediction/service.py"
BENTOFILE = "bentofiles/prediction/bentofile.yaml"
REQUIREMENTS = (
    "bentoml",
    "fsspec",
    "httptools",
    "msgspec",
    "numpy",
    "onnxruntime",
    "prometheus-client",
    "psycopg",
    "psycopg-binary",
    "pyarrow",
    "pydantic-settings",
    "s3fs",
    "uvicorn",
    "uvloop",
)
"""What the service imports itself, and what uvicorn takes if it is there; the rest follows from what these require."""
BUILD_SECONDS = 120


class PackagingError(RuntimeError):
    """The Bento could not be built; the message ends with what bentoml said."""


@dataclass(frozen=True)
class Packaged:
    """A published served form and its Bento."""

    bento: str
    url: str
    content_hash: str
    seconds: float


def package(form: ServedForm, *, model: str, version: int, data_url: str, bento_home: Path, root: Path) -> Packaged:
    """Publish the served form and build its Bento; what is there already is found, not made again.

    Args:
        form: a verified served form on local disk.
        model: the registered model's name.
        version: MLflow's number of the version.
        data_url: the platform's data; the form is published below `served/`.
        bento_home: BENTOML_HOME, outside of `root`'s build context.
        root: the checkout that the service's code is taken from.

    Raises:
        StorageError: the form could not be written, or was not read back as it was written.
        PackagingError: `bentoml build` failed.
    """
    started = time.monotonic()
    url = publish(form, model=model, data_url=data_url)
    name, tag_version = f"prediction-{model}", f"{version}-{form.content_hash[:8]}"
    built = bento_home / "bentos" / name / tag_version / "bento.yaml"
    if not built.exists():
        champion = Champion(model, version, form.content_hash, url, f"{name}:{tag_version}", 0)
        with tempfile.TemporaryDirectory(prefix="mlops-bento-") as temporary:
            context = Path(temporary)
            _write_context(context, root, form, champion)
            _build(context, name, tag_version, bento_home, built)
    return Packaged(f"{name}:{tag_version}", url, form.content_hash, round(time.monotonic() - started, 2))


def publish(form: ServedForm, *, model: str, data_url: str) -> str:
    """Copy the served form to `<data_url>/served/<model>/<content hash>/`, and read it back; returns that address.

    The manifest goes last: who can read it finds every file that it names.
    """
    url = storage.join(data_url, "served", model, form.content_hash)
    for name, sha256 in [*sorted(form.manifest["files"].items()), (MANIFEST, form.content_hash)]:
        target = storage.join(url, name)
        if not _is_there(target, sha256):
            storage.write_bytes(target, (form.directory / name).read_bytes())
            storage.read_bytes(target, sha256)
    return url


def _is_there(url: str, sha256: str) -> bool:
    try:
        return hashlib.sha256(storage.read_bytes(url)).hexdigest() == sha256
    except storage.StorageError:
        return False


def _write_context(context: Path, root: Path, form: ServedForm, champion: Champion) -> None:
    for file in [root / SERVICE, *imported_modules(root / SERVICE, root)]:
        target = context / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    shutil.copyfile(root / BENTOFILE, context / "bentofile.yaml")
    write_bundle(context / "served", form, champion)
    pins = "\n".join(pinned(REQUIREMENTS, (root / "requirements.txt").read_text(encoding="utf-8")))
    (context / "requirements.txt").write_text(pins + "\n", encoding="utf-8")


def _build(context: Path, name: str, version: str, bento_home: Path, built: Path) -> None:
    command = [sys.executable, "-m", "bentoml", "build", "-f", str(context / "bentofile.yaml")]
    command += ["--name", name, "--version", version, "--output", "tag", str(context)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "PYTHONPATH"))}
    environment |= {"BENTOML_HOME": str(bento_home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONDONTWRITEBYTECODE": "1"}
    bento_home.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command, cwd=context, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PackagingError(f"bentoml build of {name}:{version} did not end within {BUILD_SECONDS} s") from error
    if not built.exists():  # whoever built it: two at once want the same
        output = (done.stderr or done.stdout).strip()[-2000:]
        raise PackagingError(f"bentoml build of {name}:{version} failed (exit status {done.returncode}): {output}")


def pinned(names: Iterable[str], locked: str) -> list[str]:
    """The lines `name==version` of `names` and all that they require, in the versions of a requirements.txt.

    Raises:
        PackagingError: a package that serving needs is not in the lock file.
    """
    from packaging.markers import Marker
    from packaging.requirements import Requirement

    pins = {
        _canonical(line[1]): f"{line[1]}=={line[2]}"
        for line in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: *; *([^\\\n]+))?", locked, re.MULTILINE)
        if line[3] is None or Marker(line[3].strip()).evaluate()
    }
    needed: set[str] = set()
    todo = [_canonical(name) for name in names]
    while todo:
        name = todo.pop()
        if name in needed:
            continue
        if name not in pins:
            raise PackagingError(f"{name} is needed to serve and not in requirements.txt; run `make lock`")
        needed.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(_canonical(requirement.name))
    return [pins[name] for name in sorted(needed)]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
