"""PostgreSQL's programs where its account can run them."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from include.stack import postgres

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


@AS_ROOT
def test_programs_below_a_closed_folder_are_run_from_a_copy_and_the_folder_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone below a folder such as mkdtemp makes; the copy has the libraries that initdb needs, by name."""
    closed, packaged = tmp_path / "closed", postgres.packaged_binaries()
    site_packages = packaged.parents[2]
    closed.mkdir(mode=0o700)
    (closed / "venv").symlink_to(site_packages)
    below = closed / "venv" / packaged.relative_to(site_packages)
    monkeypatch.setattr(postgres, "packaged_binaries", lambda: below)
    monkeypatch.setattr(postgres, "CACHE", Path("/var/tmp") / f"mlops-{os.getpid()}")
    try:
        found = postgres.binaries()
        assert found.is_relative_to(postgres.CACHE)
        user = postgres.account()
        assert user
        for program in ("initdb", "postgres", "pg_ctl"):
            as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "cwd": "/"}
            ran = subprocess.run([found / program, "--version"], capture_output=True, text=True, **as_user)
            assert "18" in ran.stdout, ran.stderr
        made = {file: file.stat().st_mtime_ns for file in found.iterdir()}
        assert postgres.binaries() == found
        assert {file: file.stat().st_mtime_ns for file in found.iterdir()} == made
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert all(file.stat().st_mode & 0o022 == 0 for file in postgres.CACHE.rglob("*") if not file.is_symlink())
    finally:
        subprocess.run(["rm", "-rf", str(postgres.CACHE)], check=True)
