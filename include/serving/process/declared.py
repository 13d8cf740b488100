"""What params.yaml declares of the service, as far as it is in force: for its launcher and its workers alike.

A service that starts anew, after a crash or an upgrade, must come up whatever somebody is writing into params.yaml just
then. So a mistake leaves what was in force, and is said in the service's log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from include import configuration, storage
from include import home as homes
from include.settings import ParamsError, Service

log = logging.getLogger("mlops.serving")


@dataclass(frozen=True)
class Declared:
    """The settings that a start of the service goes by."""

    service: Service
    default_model: str
    """Empty: none is declared."""
    mistakes: tuple[str, ...] = ()
    """A line for each mistake in the file, with what is in force instead."""


def read(environment: Mapping[str, str], root: Path) -> Declared:
    """What is in force; a Bento of one model has no params.yaml and needs none.

    The last version that loaded is read from a disk only: answering does not wait for object storage.
    """
    path = Path(environment.get("MLOPS_PARAMS") or root / "params.yaml")
    data = environment.get("MLOPS_DATA_URL") or str(homes.Home(homes.of(environment, root)).data)
    earlier = data if storage.is_local(data) else ""
    if not path.exists() and not (earlier and configuration.record(earlier).version):
        return Declared(Service(), "")
    try:
        found = configuration.load(path, earlier)
    except ParamsError as error:
        lines = tuple(f"{line}; the service has its defaults" for line in str(error).splitlines())
        return Declared(Service(), "", lines)
    return Declared(found.params.service, found.params.default_model or "", found.mistakes)


def log_mistakes(mistakes: tuple[str, ...]) -> None:
    """Each mistake as a line of the service's log."""
    for line in mistakes:
        log.error("params.yaml has a mistake", extra={"fields": {"reason": line}})
