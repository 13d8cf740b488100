"""The DAG files and params.yaml that a run began with stay its own, whatever is edited meanwhile.

Airflow's own local bundle has no versions: a task that starts after an edit runs the edited file. Here a version is the
content of dags/ and params.yaml, kept below `<data_url>/dags/<version>/`; Airflow notes it with each run, whose tasks
read it from there. An edit shows in the UI within seconds, and new runs begin with it. What is below include/ is the
installed program, of which there is one.

A version always loads. What does not (an entry of params.yaml with a mistake, a DAG file that cannot be imported) is
in it as it last was right; the mistakes are the import error of a file of their own, `refused.py`, and an alert. So a
mistake neither takes other models' DAGs away nor comes into a run.

A file is parsed again when it has changed, and not every few seconds: the DAG processor reads the modification times of
the version's copy, and `refresh`, which it calls every two seconds, sets them when the version has changed, or the
program. A parse that had begun before an edit ends after it and would hide it: so they are set again a little later.
The files whose forms offer versions are parsed again, too, when there is another version, verdict or champion.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml
from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion

from include import configuration, settings, storage
from include.configuration import PARAMS, SECTIONS
from include.home import Home
from include.orchestration import alerts

REFUSED = "refused.py"
SETTLE_SECONDS = 0.2
"""A file that is being written is another one after this."""
LOAD_SECONDS = 120
LOAD_PROCESSES = 2
"""As many as parse in the DAG processor."""
ENTRIES_TRIED = 60
"""How many changed entries of params.yaml are tried one by one for the one that a DAG file cannot bear."""

TOUCHED_AGAIN = (15.0, 60.0)
"""Seconds after an edit at which the files are parsed once more; the longest parse that Airflow allows takes 50."""
OFFER_VERSIONS = ("deploy.py", "rollback.py", "rollout.py")
"""The DAG files whose forms offer versions: parsed again when their list is another (include/deployment/choices.py)."""

PROGRAM = settings.ROOT / "include"

log = logging.getLogger("mlops")

Files = Mapping[str, bytes]


class SnapshotBundle(BaseDagBundle):  # type: ignore[misc]
    """A folder of DAG files with params.yaml, versioned by content.

    Args:
        folder: the DAG files.
        **kwargs: Airflow's own: name, version, refresh_interval.
    """

    supports_versioning = True

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._folder = Path(folder)
        self._current: str | None = self.version
        self._seen = ""
        self._program = ""
        self._touch_again: list[float] = []
        self.edited: frozenset[tuple[str, str]] | None = None
        """The entries of params.yaml that the last refresh found changed; None where more has changed, or nothing."""
        self._versions: int | None = None
        self._offer_again: list[float] = []

    @property
    def path(self) -> Path:
        """Where the version's copy lies on this machine.

        The DAG processor parses the copy too: were it to parse the folder, a run could be pinned to a version from
        before the edit that brought its DAG.
        """
        return self.base_dir / "snapshots" / self._current if self._current else self._folder

    def initialize(self) -> None:
        """Bring the version to this machine, or take one of what is in the folder now.

        Raises:
            StorageError: the version's files are gone from storage.
        """
        if self.version is None:
            self.refresh()
        elif not self.path.is_dir():
            self._materialize(_fetch(self.version))
        super().initialize()

    def refresh(self) -> None:
        """Take a version of what is in the folder now, as far as it loads; equal content is the same version."""
        found, before = _read(self._folder, settings.environment().params), self._current
        if found.digest != self._seen or not self.path.is_dir():
            self._take(found)
        self._let_changes_be_parsed(before)

    def watched_folders(self) -> list[Path]:
        """Where what this bundle is made of lies: the DAG files, params.yaml and the program."""
        below = [path for path in PROGRAM.rglob("*") if path.is_dir() and path.name != "__pycache__"]
        return list(dict.fromkeys([self._folder, settings.environment().params.parent, PROGRAM, *below]))

    def concerns(self, path: Path) -> bool:
        """Whether a file in one of those folders belongs to the bundle."""
        return path == settings.environment().params or path.suffix == ".py"

    def _let_changes_be_parsed(self, before: str | None) -> None:
        """Set the copy's modification times where something changed since `before`, or when it is time to once more."""
        program, now = _program(), time.monotonic()
        changed = before != self._current or program != self._program
        if changed and before is not None:  # who sees the bundle for the first time has parsed nothing yet
            self._touch_again = [now, *(now + seconds for seconds in TOUCHED_AGAIN)]
        same_program, self._program = program == self._program, program
        self.edited = _edited(self.path.with_name(before), self.path) if changed and same_program and before else None
        written = _written(settings.environment().home)
        if written != self._versions and before is not None:
            self._offer_again = [now, now + TOUCHED_AGAIN[0]]
        self._versions = written
        if _is_due(self._touch_again, now):
            self._touch("*.py")
        if _is_due(self._offer_again, now):
            self._touch(*OFFER_VERSIONS)

    def _touch(self, *patterns: str) -> None:
        for path in (path for pattern in patterns for path in self.path.glob(pattern)):
            path.touch()

    def _take(self, found: _Found) -> None:
        url = settings.environment().data_url
        record = configuration.record(url)
        if record.seen != found.digest or not storage.exists(storage.join(_url(record.version), PARAMS)):
            before = _fetch(record.version) if record.version else {}
            record = _adopt(found, before, record, url)
        self._current, self._seen = record.version, found.digest
        if not self.path.is_dir():
            self._materialize(_fetch(record.version))

    def _materialize(self, files: Files) -> None:
        """Write a version's local copy: all of it appears at once."""
        if self.path.is_dir():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".") as folder:
            whole = Path(folder) / "whole"
            whole.mkdir()
            for name, data in files.items():
                (whole / name).write_bytes(data)
            with contextlib.suppress(OSError):  # another process was first, with equal content
                whole.rename(self.path)

    def get_current_version(self) -> BundleVersion | None:
        """The version that this object stands for."""
        return BundleVersion(self._current) if self._current else None

    def view_url(self, version: str | None = None) -> None:
        """There is no page that shows a version."""


# ---------------------------------------------------------------------------------------------- what is in the folder


@dataclass(frozen=True)
class _Found:
    """What is in the folder, whether it loads or not."""

    files: dict[str, bytes]
    problems: dict[str, str]
    """File → why it cannot be read."""

    @property
    def digest(self) -> str:
        """Of names, contents and problems."""
        return _digest({**self.files, **{f"{name} unread": text.encode() for name, text in self.problems.items()}})


def _read(folder: Path, params: Path) -> _Found:
    """The files, once none of them is being written."""
    found = _read_once(folder, params)
    deadline = time.monotonic() + 25 * SETTLE_SECONDS
    while _is_fresh(folder, params) and time.monotonic() < deadline:
        time.sleep(SETTLE_SECONDS)
        again = _read_once(folder, params)
        if again == found:
            break
        found = again
    return found


def _is_fresh(folder: Path, params: Path) -> bool:
    """Whether something was written within the last seconds."""
    changed = [0.0]
    for path in (folder, params, *folder.glob("*.py")):
        with contextlib.suppress(OSError):
            changed.append(path.stat().st_mtime)
    return abs(time.time() - max(changed)) < 10 * SETTLE_SECONDS


def _read_once(folder: Path, params: Path) -> _Found:
    files: dict[str, bytes] = {}
    problems: dict[str, str] = {}
    named = [(path.name, path) for path in sorted(folder.glob("*.py")) if not path.name.startswith(".")]
    for name, path in [*named, (PARAMS, params)]:
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            problems[name] = configuration.unreadable(name, error)
    if not named:
        problems["dags"] = f"{folder}: there is no DAG file that can be read; those in force before stay"
    return _Found(files, problems)


def _edited(before: Path, now: Path) -> frozenset[tuple[str, str]] | None:
    """The entries of params.yaml in which two local copies differ, where nothing else does."""
    names = {path.name for folder in (before, now) for path in folder.glob("*.py")}
    texts = [(folder / PARAMS).read_text(encoding="utf-8") for folder in (before, now) if (folder / PARAMS).is_file()]
    if len(texts) < 2 or any(_bytes(before / name) != _bytes(now / name) for name in names):
        return None
    read = [yaml.safe_load(text) for text in texts]
    if not all(isinstance(data, dict) for data in read):
        return None
    rest = [{key: value for key, value in data.items() if key not in SECTIONS} for data in read]
    entries = frozenset((key[0], key[1]) for key in configuration.changed(texts[1], texts[0]))
    return entries or None if rest[0] == rest[1] else None


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


# ---------------------------------------------------------------------------------------------- what of it loads


def _adopt(found: _Found, before: Files, record: configuration.Record, data_url: str) -> configuration.Record:
    """Make a version of what loads, write it down as the one in force, and alert of what was refused."""
    files, mistakes = _loadable(found, before)
    version = _digest(files)[:16]
    for name in sorted(files, key=lambda name: (name == PARAMS, name)):  # params.yaml last: with it the copy is whole
        storage.write_bytes(storage.join(_url(version), name), files[name])
    made = configuration.Record(version, found.digest, tuple(mistakes))
    configuration.write_record(data_url, made)
    if new := [mistake for mistake in mistakes if mistake not in record.mistakes]:
        alerts.send("configuration_refused", "; ".join(new), version=version, mistakes=mistakes)
    return made


def _loadable(found: _Found, before: Files) -> tuple[dict[str, bytes], list[str]]:
    """The files of a version that loads, and what was refused."""
    mistakes = list(found.problems.values())
    code = {name: data for name, data in found.files.items() if name != PARAMS}
    if "dags" in found.problems:
        code = {name: data for name, data in before.items() if name not in (PARAMS, REFUSED)}
    for name in found.problems:
        if name in before and name != PARAMS:
            code[name] = before[name]
    try:
        params, wrong = _params(found, before)
    except settings.ParamsError:  # the first version there is: its import errors are in the words of `mlops check`
        return {**code, PARAMS: found.files.get(PARAMS, b"")}, mistakes
    files = {**code, PARAMS: params}
    mistakes += wrong
    if errors := load_errors(files):
        files, more = _without(errors, files, before)
        mistakes += more
    return files | _refusal(mistakes), mistakes


def _params(found: _Found, before: Files) -> tuple[bytes, list[str]]:
    earlier = before.get(PARAMS)
    if PARAMS not in found.files:
        return (earlier or b""), []
    try:
        text = found.files[PARAMS].decode()
    except UnicodeDecodeError as error:
        if earlier is None:
            raise settings.ParamsError(configuration.unreadable(PARAMS, error)) from error
        return earlier, [configuration.unreadable(PARAMS, error)]
    made = configuration.in_force(text, earlier.decode() if earlier is not None else None)
    return made.text.encode(), list(made.mistakes)


def _without(errors: Mapping[str, str], files: dict[str, bytes], before: Files) -> tuple[dict[str, bytes], list[str]]:
    """Files that load, with what makes them fail as it was before: a DAG file, an entry of params.yaml, or all."""
    mistakes = []
    for name, error in errors.items():
        if files[name] != before.get(name):
            stays = "; it is in force as it last was right" if name in before else "; it is left out"
            mistakes.append(f"dags/{name}: {error}{stays}")
    old = {name: before[name] for name in errors if name in before}
    mended = {name: data for name, data in files.items() if name not in errors} | old
    if not (left := load_errors(mended)):
        return mended, mistakes
    text, earlier = files[PARAMS].decode(), before[PARAMS].decode() if PARAMS in before else None
    for key in configuration.changed(text, earlier)[:ENTRIES_TRIED]:
        tried = mended | {PARAMS: configuration.revert(text, key, earlier).encode()}
        if not load_errors(tried):
            entry, reason = ".".join(key), "; ".join(dict.fromkeys(left.values()))
            return tried, [*mistakes, f"{PARAMS}: {entry}: {reason}; {entry} is in force as it was before, if it was"]
    reasons = [f"dags/{name}: {error}" for name, error in left.items()]
    if not before:
        return mended, [*mistakes, *reasons]
    retained = {name: data for name, data in before.items() if name != REFUSED}
    return retained, [*mistakes, *(f"{reason}; all is in force as it was before" for reason in reasons)]


def load_errors(files: Files) -> dict[str, str]:
    """The DAG files that cannot be imported, each with the reason; tried in a process that ends with it.

    Raises:
        TimeoutError: an import did not end.
    """
    with tempfile.TemporaryDirectory(prefix="mlops-dags-") as folder, contextlib.ExitStack() as stack:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        paths = sorted(Path(folder).glob("*.py"))
        shares = [share for number in range(LOAD_PROCESSES) if (share := paths[number::LOAD_PROCESSES])]
        answers = [stack.enter_context(_importing(share)) for share in shares]
        deadline = time.monotonic() + LOAD_SECONDS
        found: dict[str, str] = {}
        try:
            for answer in answers:
                if not answer.poll(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"the DAG files were not imported within {LOAD_SECONDS} s; they are tried again")
                found |= answer.recv()
        except EOFError:
            raise RuntimeError("the DAG files could not be tried: the process that imports them was killed") from None
        return found


@contextlib.contextmanager
def _importing(paths: Sequence[Path]) -> Iterator[Connection]:
    """A process that imports these files and sends its errors; it has gone afterwards."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_import_all, args=(paths, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        child.kill()
        child.join()
        ours.close()


def _import_all(paths: Sequence[Path], answer: Connection) -> None:
    logging.disable()
    from airflow.dag_processing.dagbag import DagBag

    errors = {}
    for path in paths:
        for text in DagBag(str(path)).import_errors.values():
            errors[path.name] = text.strip().splitlines()[-1].replace(f"{path.parent}/", "")
    answer.send(errors)


def _refusal(mistakes: list[str]) -> dict[str, bytes]:
    """A file that is only there for its import error: the UI's list of them is where an operator sees a mistake."""
    if not mistakes:
        return {}
    message = "params.yaml and the DAG files are not in force as they stand:\n" + "\n".join(mistakes)
    words = "# airflow finds dag files by these two words"
    program = f"{words}\nfrom include.settings import ParamsError\n\nraise ParamsError({message!r})\n"
    return {REFUSED: program.encode()}


# ---------------------------------------------------------------------------------------------- versions in storage


def _digest(files: Files) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()


def _program() -> str:
    """What changes with an edit of include/, which shapes the DAGs too."""
    files = sorted(PROGRAM.rglob("*.py"))
    return _digest({str(path): str(path.stat().st_mtime_ns).encode() for path in files})


def _written(home: Path) -> int | None:
    """When the list of versions was written."""
    try:
        return Home(home).versions.stat().st_mtime_ns
    except OSError:
        return None


def _is_due(times: list[float], now: float) -> bool:
    """Whether the first of these times has come, which is taken off then."""
    due = bool(times) and now >= times[0]
    if due:
        times.pop(0)
    return due


def _fetch(version: str) -> dict[str, bytes]:
    """A version's files; with params.yaml, which was written last, they are whole."""
    url = _url(version)
    params = storage.read_bytes(storage.join(url, PARAMS))
    names = [name for name in storage.list_files(url) if name != PARAMS]
    return {name: storage.read_bytes(storage.join(url, name)) for name in names} | {PARAMS: params}


def _url(version: str) -> str:
    return configuration.version_url(settings.environment().data_url, version)
