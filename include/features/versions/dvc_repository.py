"""DVC: a workspace as a repository on the shared cache. The only caller of DVC.

What is taken from inside of DVC is listed in docs/internals.md: `Repo._reset`, after files were written beside an open
repository; `transfer`, because `Repo.push` believes that a remote with a folder's listing has all of its members too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from include import storage
from include.features.versions.record import FeatureVersionError
from include.home import Home

if TYPE_CHECKING:
    from dvc.repo import Repo

log = logging.getLogger(__name__)

REMOTE = "features"


@contextlib.contextmanager
def open_repository(workspace: Path, model: str, remote_url: str, home: Path, *, links: str) -> Iterator[DvcRepository]:
    """The workspace as a DVC repository, without git, on the shared cache.

    Args:
        workspace: a private folder with dvc.yaml and params.yaml.
        model: whose feature stage is meant.
        remote_url: a folder or an s3:// URL.
        home: the platform's scratch space on this machine, where the cache is.
        links: how files of the cache come into the workspace, as DVC's `cache.type`.
    """
    from dvc.repo import Repo

    own = workspace / ".dvc"
    (own / "tmp").mkdir(parents=True, exist_ok=True)
    (own / "config").write_text(_configuration(own, remote_url, home, links), encoding="utf-8")
    repo = Repo(str(workspace))
    try:
        yield DvcRepository(repo, workspace, model, remote_url)
    finally:
        repo.close()


def _configuration(own: Path, remote_url: str, home: Path, links: str) -> str:
    remote: dict[str, Any] = {"url": remote_url, "verify": True}
    if storage.is_local(remote_url):
        remote["url"] = str(storage.local_path(remote_url).absolute())
    elif endpoint := os.environ.get("MLOPS_S3_ENDPOINT_URL"):
        remote["endpointurl"] = endpoint
    sections = {
        "core": {
            "no_scm": True,
            "analytics": False,
            "check_update": False,
            "remote": REMOTE,
            "site_cache_dir": own / "site",
        },
        "cache": {"dir": Home(home.absolute()).dvc_cache, "type": links},
        f"'remote \"{REMOTE}\"'": remote,
    }
    return "".join(
        f"[{name}]\n" + "".join(f"    {key} = {value}\n" for key, value in values.items())
        for name, values in sections.items()
    )


class DvcRepository:
    """The feature stage of one model, in an open repository."""

    def __init__(self, repo: Repo, workspace: Path, model: str, remote_url: str) -> None:
        self._repo, self._model, self._remote_url = repo, model, remote_url
        self._lock = workspace / "dvc.lock"
        self._features = workspace / "features"
        self._target = f"{workspace / 'dvc.yaml'}:features@{model}"

    @property
    def lock(self) -> str:
        """The text of dvc.lock."""
        return self._lock.read_text(encoding="utf-8")

    def reproduce(self, environment: Mapping[str, str]) -> None:
        """Let DVC decide whether the stage must run, and run it in this environment.

        Raises:
            FeatureVersionError: it did not finish; the message has all of DVC's causes.
        """
        from dvc.exceptions import DvcException

        try:
            self._repo.reproduce(targets=[self._target], single_item=True, run_env=dict(environment))
        except DvcException as error:
            causes, cause = [str(error)], error.__cause__
            while cause is not None:
                causes.append(str(cause))
                cause = cause.__cause__
            raise FeatureVersionError(
                f"the feature stage of {self._model} did not finish: {': '.join(causes)}; see the log above"
            ) from error

    def resume(self, locks: list[str]) -> None:
        """Check out the first of some versions that can be had, so that only what changed is computed."""
        for lock in locks:
            try:
                self.check_out(lock)
            except FeatureVersionError as error:
                log.warning("%s; computing more of %s again", error, self._model)
                shutil.rmtree(self._features, ignore_errors=True)
                self._lock.unlink(missing_ok=True)
                self._repo._reset()
            else:
                return

    def check_out(self, lock: str) -> None:
        """Bring the files of a dvc.lock into the workspace, each with the bytes it had.

        Raises:
            FeatureVersionError: neither cache nor remote has them.
        """
        from dvc.exceptions import DvcException

        self._lock.write_text(lock, encoding="utf-8")
        self._repo._reset()
        oid = oid_of(lock, self._model)
        try:
            for _ in range(3):  # the listing, then its members, then the proof
                if not self._remove_spoilt(oid):
                    break
                self._repo.fetch(targets=[self._target])
            else:
                raise FeatureVersionError(f"the remote's copy of {self._model} features {oid} is corrupt")
            shutil.rmtree(self._features / self._model, ignore_errors=True)
            self._repo.checkout(targets=[self._target], force=True)
        except (DvcException, OSError) as error:
            raise FeatureVersionError(f"features {oid} of {self._model} cannot be brought back: {error}") from error

    def _remove_spoilt(self, oid: str) -> list[str]:
        """Remove from the cache what is not what its name says; returns that, and what is missing."""
        cache = self._repo.cache.local
        listing = Path(cache.oid_to_path(oid))
        found = [] if _is_object(listing, oid) else [oid]
        if not found:
            members = {entry["md5"] for entry in json.loads(listing.read_bytes())}
            found = [member for member in sorted(members) if not _is_object(Path(cache.oid_to_path(member)), member)]
        for bad in found:
            path = Path(cache.oid_to_path(bad))
            if path.exists():
                log.warning("the cached object %s is corrupt: removed, to be fetched from the remote", path)
                path.unlink()
        return found

    def push(self) -> None:
        """Push what the remote lacks of the version, its listing last, and see that it has all.

        Raises:
            FeatureVersionError: it does not; running the build again resumes.
        """
        from dvc.exceptions import DvcException
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.transfer import transfer

        oid, url = oid_of(self.lock, self._model), self._remote_url
        resume = "the version is not recorded; run the build again when the remote is back, it goes on from here"
        try:
            if storage.is_local(url):
                storage.local_path(url).mkdir(parents=True, exist_ok=True)
            cache, remote = self._repo.cache.local, self._repo.cloud.get_remote_odb(REMOTE)
            transfer(cache, remote, [HashInfo("md5", oid)], shallow=False, cache_odb=cache)
            listing = json.loads(Path(cache.oid_to_path(oid)).read_bytes())
            needed = {oid, *(entry["md5"] for entry in listing)}
            there = set(remote.oids_exist(sorted(needed)))
        except (DvcException, OSError, ValueError) as error:
            raise FeatureVersionError(
                f"the features of {self._model} could not be pushed to {url}: {error}; {resume}"
            ) from error
        if lacking := needed - there:
            raise FeatureVersionError(
                f"{url} lacks {len(lacking)} of {len(needed)} objects of {self._model} after the push; {resume}"
            )


def _is_object(path: Path, oid: str) -> bool:
    """Whether a cached object is there and has the bytes that its name says."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() == oid.removesuffix(".dir")
    except FileNotFoundError:
        return False


def oid_of(lock: str, model: str) -> str:
    """The md5 of the feature folder in a dvc.lock, as DVC names the object: with `.dir`.

    Raises:
        FeatureVersionError: the lock has none.
    """
    try:
        stages = yaml.safe_load(lock)["stages"]
        return str(stages[f"features@{model}"]["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise FeatureVersionError(f"the dvc.lock of {model} holds no feature folder: {error!r}") from error


def version_of(lock: str, model: str) -> str:
    """The version that a dvc.lock describes."""
    return oid_of(lock, model).removesuffix(".dir")
