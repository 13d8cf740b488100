"""Credentials: generated once, readable by their owner only, never lost in silence."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import stat
from pathlib import Path

import pytest

from include.home import Home
from include.serving import api_keys as keys
from include.stack import credentials, lifecycle
from include.stack.progress import Progress


def test_the_first_start_generates_every_credential_into_a_file_of_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "credentials.env"
    keys = credentials.read_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(keys.serving_key) >= 32
    assert len(base64.urlsafe_b64decode(keys.airflow_fernet_key)) == 32
    assert keys.named("serving") == keys.serving_key
    assert keys.named("serving-admin") == keys.serving_admin_key


def test_a_later_start_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "credentials.env"
    assert credentials.read_or_create(path) == credentials.read_or_create(path)


def test_two_homes_have_nothing_in_common(tmp_path: Path) -> None:
    one, two = (credentials.read_or_create(tmp_path / name) for name in ("a", "b"))
    assert not set(vars(one).values()) & set(vars(two).values())


def test_a_credential_that_an_older_file_lacks_is_added_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "credentials.env"
    before = credentials.read_or_create(path)
    kept = [line for line in path.read_text().splitlines() if not line.startswith("SERVING_KEY")]
    path.write_text("\n".join(kept))
    with pytest.raises(credentials.CredentialsError, match="SERVING_KEY"):
        credentials.read(path)
    after = credentials.read_or_create(path)
    assert after.serving_key != before.serving_key
    assert after.postgres_password == before.postgres_password


def test_one_credential_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "credentials.env"
    before = credentials.read_or_create(path)
    credentials.replace(path, "serving_key", "new")
    assert credentials.read(path) == dataclasses.replace(before, serving_key="new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_stacks_own_keys_of_the_service_have_one_scope_each(tmp_path: Path) -> None:
    keys = credentials.read_or_create(tmp_path / "credentials.env")
    assert keys.serving_keys() == {
        "serving": (keys.serving_key, ("predict",)),
        "feedback": (keys.serving_feedback_key, ("feedback",)),
        "serving-admin": (keys.serving_admin_key, ("admin",)),
    }


def test_up_adds_what_a_newer_version_of_the_platform_needs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    ports = {"airflow": 1, "mlflow": 2, "serving": 3, "postgres": 4}
    (tmp_path / "stack.json").write_text(json.dumps({"id": "x", "ports": ports}))
    path = Home(tmp_path).credentials
    credentials.read_or_create(path)
    kept = [line for line in path.read_text().splitlines() if not line.startswith("SERVING_FEEDBACK_KEY")]
    path.write_text("\n".join(kept))
    found, _ = lifecycle._find(Path("/root of it"), tmp_path, {}, Progress(io.StringIO()))
    lifecycle._register_serving_keys(found)
    held = {key.name: (key.sha256, key.scopes) for key in keys.read(Home(tmp_path).serving_keys)}
    assert held["feedback"] == (keys.digest(found.credentials().serving_feedback_key), ("feedback",))


def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "credentials.env"
    credentials.read_or_create(path)
    path.chmod(0o644)
    with pytest.raises(credentials.CredentialsError, match="chmod 600"):
        credentials.read(path)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    keys = credentials.read_or_create(tmp_path / "credentials.env")
    with pytest.raises(credentials.CredentialsError, match="airflow, mlflow, serving"):
        keys.named("grafana")
