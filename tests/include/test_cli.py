"""The `mlops` command: quick, and a mistake is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.home import Home
from tests.conftest import ROOT


def mlops(*arguments: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    return subprocess.run(
        [sys.executable, "-m", "include.cli", *arguments],
        cwd=ROOT,
        env={**environment, "MLOPS_HOME": str(home), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = mlops("--help", home=tmp_path, COLUMNS="120").stdout
    names = "up down status demo check key keys env logs suite champion history rollback restore"
    assert [name for name in names.split() if f" {name} " not in shown] == []


def test_nothing_heavy_is_imported_before_a_command_is_known(tmp_path: Path) -> None:
    code = "import sys, include.cli; print([m for m in ('pydantic', 'sqlalchemy', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["status"], ["key", "airflow"], ["champion", "tumour"], ["env"]])
def test_without_a_stack_the_answer_is_one_line_that_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    result = mlops(*command, home=tmp_path / "none")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "make up" in result.stderr


def test_keys_of_the_service_are_made_shown_replaced_and_revoked(tmp_path: Path) -> None:
    from include.serving import keys

    file = Home(tmp_path).serving_keys
    made = mlops("keys", "add", "billing", "--scope", "predict", "--scope", "feedback", "--quota", "50", home=tmp_path)
    assert made.returncode == 0, made.stderr
    [held] = keys.read(file)
    assert (held.sha256, held.scopes) == (keys.digest(made.stdout.strip()), ("predict", "feedback"))
    replaced = mlops("keys", "rotate", "billing", "--overlap", "2", home=tmp_path)
    assert keys.digest(replaced.stdout.strip()) in {key.sha256 for key in keys.read(file)}
    shown = mlops("keys", "list", home=tmp_path).stdout.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [["billing", "predict,feedback", "50/s"]] * 2
    assert made.stdout.strip() not in "".join(shown)
    assert mlops("keys", "revoke", "billing", home=tmp_path).returncode == 0
    assert keys.read(file) == []
    for wrong, said in [
        (("revoke", "billing"), "there is no key 'billing'"),
        (("revoke", "serving"), "mlops keys rotate serving --overlap 0"),
        (("add", "billing", "--scope", "everything"), "scopes are predict, feedback, admin"),
        (("rotate", "serving"), "make up"),
    ]:
        result = mlops("keys", *wrong, home=tmp_path)
        assert result.returncode == 1
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_replacing_the_stacks_own_key_changes_it_for_the_stack_and_the_service(tmp_path: Path) -> None:
    import datetime as dt
    import json

    from include.serving import keys
    from include.stack import credentials

    (tmp_path / "stack.json").write_text(
        json.dumps({"id": "x", "ports": {"airflow": 1, "mlflow": 2, "serving": 3, "postgres": 4}})
    )
    before = credentials.read_or_create(Home(tmp_path).credentials)
    keys.keep(Home(tmp_path).serving_keys, before.serving_keys(), now=dt.datetime.now(dt.UTC))
    replaced = mlops("keys", "rotate", "serving", home=tmp_path)
    assert replaced.returncode == 0, replaced.stderr
    assert "Airflow's tasks have the old one" in replaced.stderr
    assert mlops("key", "serving", home=tmp_path).stdout == replaced.stdout
    after = credentials.read(Home(tmp_path).credentials)
    assert after.postgres_password == before.postgres_password
    counting = {key.sha256 for key in keys.read(Home(tmp_path).serving_keys) if key.name == "serving"}
    assert counting == {keys.digest(before.serving_key), keys.digest(after.serving_key)}
    # As the next `mlops up` does:
    keys.keep(Home(tmp_path).serving_keys, after.serving_keys(), now=dt.datetime.now(dt.UTC))
    assert {key.sha256 for key in keys.read(Home(tmp_path).serving_keys) if key.name == "serving"} == counting


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    assert mlops("down", home=tmp_path / "none").returncode == 0


def test_a_mistake_in_params_is_told_with_its_line(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("sources:\n  a:\n    type: sample\n    dataset: taxi_trip\n")
    result = mlops("check", home=tmp_path, MLOPS_PARAMS=str(params))
    assert result.returncode == 1
    assert "params.yaml:4: sources.a.dataset" in result.stderr
    assert "did you mean 'taxi_trips'" in result.stderr


def test_a_suite_is_proposed_once_and_never_overwritten(tmp_path: Path) -> None:
    suites = tmp_path / "suites"
    params = tmp_path / "params.yaml"
    params.write_text("sources:\n  cells:\n    type: sample\n    dataset: breast_cancer\n")
    variables = {"MLOPS_PARAMS": str(params), "MLOPS_SUITES": str(suites)}
    first = mlops("suite", "cells", home=tmp_path, **variables)
    assert first.returncode == 0, first.stderr
    (suites / "cells.json").write_text("edited")
    again = mlops("suite", "cells", home=tmp_path, **variables)
    assert again.returncode == 1
    assert "cells.json is there already" in again.stderr
    assert (suites / "cells.json").read_text() == "edited"


def test_too_little_disk_and_a_port_in_use_are_one_line_each(tmp_path: Path) -> None:
    """Promise 49, at the start: told before anything is written."""
    from include.stack import local
    from include.stack.progress import Progress

    with pytest.raises(local.StackError, match=r"too little disk: .* set MLOPS_HOME"):
        local.up(ROOT, tmp_path / "home", inherited={}, progress=Progress(sys.stdout), minimum_free=1 << 60)
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        result = mlops("up", home=tmp_path / "home", MLOPS_AIRFLOW_PORT=port)
    assert result.returncode == 1
    assert result.stderr.startswith(f"mlops: port {port} (airflow) is in use by")
    assert len(result.stderr.strip().splitlines()) == 1


def test_what_was_tried_and_decided_can_be_read(database_url: str, tmp_path: Path) -> None:
    from include import database
    from include.deployment import rollouts
    from tests.include.deployment import trials

    engine = database.connect(database_url)
    trials.crown(engine, 1)
    canary = trials.start(engine, 2, steps=(1, 5))
    rollouts.step(engine, canary, actor="the controller", reason="1% went well", evidence={})
    trials.report(engine, canary, "canary", 200, errors=3, predictions=(100, 97))
    where = {"MLOPS_DATABASE_URL": database_url}
    shown = mlops("history", "m", home=tmp_path, **where).stdout.splitlines()
    assert [line[21:].split("  ")[0] for line in shown] == [
        "canary 2: step", "canary 2: start", "verdict PROMOTE on 2", "promote nothing → 1", "verdict PROMOTE on 1",
    ]  # fmt: skip
    standing = mlops("rollout", "m", home=tmp_path, **where).stdout
    assert "canary  version 2 answers 5% beside version 1, since" in standing
    assert "canary 200 requests, errors 1.5%, p99 5 ms; champion without requests; drift not known" in standing
    assert "canary 2: step       1% went well (by the controller)" in standing
    trials.start(engine, 3, "shadow")
    assert "shadow  version 3 scores all requests" in mlops("rollout", "m", home=tmp_path, **where).stdout
    engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stop"], "say why"),
        (["start", "--reason", "r"], "name the registered version"),
        (["stop", "--kind", "ab", "--reason", "r"], "m: no ab runs; `mlops rollout m` shows what was"),
    ],
)
def test_a_rollout_is_changed_only_with_a_reason_and_what_it_needs(
    database_url: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = mlops("rollout", "m", *arguments, home=tmp_path, MLOPS_DATABASE_URL=database_url)
    assert result.returncode != 0
    assert message in result.stderr
