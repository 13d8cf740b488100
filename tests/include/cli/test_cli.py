"""The `mlops` command: quick, and a mistake is one line."""

from __future__ import annotations

import datetime as dt
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from include import names
from include.cli import main as cli
from include.deployment import verification
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
    code = "import sys, include.cli.main; print([m for m in ('pydantic', 'sqlalchemy', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["status"], ["key", "airflow"], ["champion", "tumour"], ["env"]])
def test_without_a_stack_the_answer_is_one_line_that_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    result = mlops(*command, home=tmp_path / "none")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "make up" in result.stderr


@pytest.mark.slow
def test_keys_of_the_service_are_made_shown_replaced_and_revoked(tmp_path: Path) -> None:
    from include.serving import api_keys

    file = Home(tmp_path).serving_keys
    made = mlops("keys", "add", "billing", "--scope", "predict", "--scope", "feedback", "--quota", "50", home=tmp_path)
    assert made.returncode == 0, made.stderr
    [held] = api_keys.read(file)
    assert (held.sha256, held.scopes) == (api_keys.digest(made.stdout.strip()), ("predict", "feedback"))
    replaced = mlops("keys", "rotate", "billing", "--overlap", "2", home=tmp_path)
    assert api_keys.digest(replaced.stdout.strip()) in {key.sha256 for key in api_keys.read(file)}
    shown = mlops("keys", "list", home=tmp_path).stdout.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [["billing", "predict,feedback", "50/s"]] * 2
    assert made.stdout.strip() not in "".join(shown)
    assert mlops("keys", "revoke", "billing", home=tmp_path).returncode == 0
    assert api_keys.read(file) == []
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

    from include.serving import api_keys
    from include.stack import credentials

    (tmp_path / "stack.json").write_text(
        json.dumps({"id": "x", "ports": {"airflow": 1, "mlflow": 2, "serving": 3, "postgres": 4}})
    )
    before = credentials.read_or_create(Home(tmp_path).credentials)
    api_keys.ensure(Home(tmp_path).serving_keys, before.serving_keys(), now=dt.datetime.now(dt.UTC))
    replaced = mlops("keys", "rotate", "serving", home=tmp_path)
    assert replaced.returncode == 0, replaced.stderr
    assert "Airflow's tasks have the old one" in replaced.stderr
    assert mlops("key", "serving", home=tmp_path).stdout == replaced.stdout
    after = credentials.read(Home(tmp_path).credentials)
    assert after.postgres_password == before.postgres_password
    counting = {key.sha256 for key in api_keys.read(Home(tmp_path).serving_keys) if key.name == "serving"}
    assert counting == {api_keys.digest(before.serving_key), api_keys.digest(after.serving_key)}
    # As the next `mlops up` does:
    api_keys.ensure(Home(tmp_path).serving_keys, after.serving_keys(), now=dt.datetime.now(dt.UTC))
    assert {key.sha256 for key in api_keys.read(Home(tmp_path).serving_keys) if key.name == "serving"} == counting


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
    from include.stack import lifecycle, machine
    from include.stack.progress import Progress

    with pytest.raises(machine.StackError, match=r"too little disk: .* set MLOPS_HOME"):
        lifecycle.up(ROOT, tmp_path / "home", inherited={}, progress=Progress(sys.stdout), minimum_free=1 << 60)
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
    assert "canary  version 2 answers 5% of the requests beside version 1, since" in standing
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
        (["stop", "--kind", "ab", "--reason", "r"], "tumour: no ab runs; `mlops rollout tumour` shows what was"),
    ],
)
def test_a_rollout_is_changed_only_with_a_reason_and_what_it_needs(
    database_url: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = mlops("rollout", "tumour", *arguments, home=tmp_path, MLOPS_DATABASE_URL=database_url)
    assert result.returncode != 0
    assert message in result.stderr


# ------------------------------------------------------------------------------------------------ errors and names


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process, with PostgreSQL, MLflow and the service at ports where nothing listens."""
    for name in [name for name in os.environ if name.startswith(("MLOPS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("MLOPS_PARAMS", str(tmp_path / "params.yaml"))
    monkeypatch.setenv("MLOPS_DATABASE_URL", f"postgresql+psycopg2://u:secret@127.0.0.1:{_free_port()}/platform")
    for name in ("MLFLOW", "SERVING", "AIRFLOW"):
        monkeypatch.setenv(f"MLOPS_{name}_URL", f"http://127.0.0.1:{_free_port()}")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mlops", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return call


PARAMS = """
sources:
  cells: {type: sample, dataset: breast_cancer}
models:
  tumour:
    source: cells
    target: diagnosis
    task: binary
    features: {standard_scaler: all}
    estimators: {linear: {}}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "command",
    [
        "champion tumour",
        "history tumour",
        "predictions tumour",
        "rollout tumour",
        "rollout tumour stop --reason x",
        "rollback tumour --reason x",
        "forget tumour --entity a",
        "restore tumour 3 --to there",
        "champion tumuor",
        "forget nosuch --entity a",
    ],
)
def test_while_postgresql_is_away_each_command_says_so_in_one_line(
    command: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = run(*command.split())
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert "does not answer" in err
    assert "make up" in err
    assert "secret" not in err
    assert not Path("there").exists()


def test_a_service_without_keys_lists_none_and_revokes_none(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("keys", "list")[0] == 0
    status, _, err = run("keys", "revoke", "nosuch")
    assert (status, len(err.splitlines())) == (1, 1)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("champion tumuor", "there is no model 'tumuor'; did you mean 'tumour'?"),
        ("history nosuch", "there is no model 'nosuch'; params.yaml has tumour"),
        ("predictions Tumour", "there is no model 'Tumour'; did you mean 'tumour'?"),
        ("rollout tumours", "there is no model 'tumours'; did you mean 'tumour'?"),
        ("rollout tumuor stop --reason x", "there is no model 'tumuor'; did you mean 'tumour'?"),
        ("rollout tumour start --kind canry --reason x", "no kind of rollout 'canry'; did you mean 'canary'?"),
        (
            "rollout tumour start --version 9 --kind canary --reason x",
            "tumour has no version 9; registered are none yet",
        ),
        ("restore tumour 9 --to there", "tumour has no version 9; registered are none yet"),
        ("restore tumuor 9 --to there", "there is no model 'tumuor'; did you mean 'tumour'?"),
        ("rollback tumuor --reason x", "there is no model 'tumuor'; did you mean 'tumour'?"),
        ("forget tumuor --entity a", "there is no model 'tumuor'; did you mean 'tumour'?"),
        ("forget tumour --entity a", "nothing of entity 'a' is logged for tumour"),
        ("forget tumour --prediction 00", "'00' is not a prediction id"),
        ("forget tumour", "name either an entity or a prediction id"),
        ("history tumour", "tumour has no history yet"),
        ("champion tumour", "tumour has no champion"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest_that_does(
    command: str, answer: str, run: Callable[..., tuple[int, str, str]], database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLOPS_DATABASE_URL", database_url)
    status, out, err = run(*command.split())
    assert (status, out) == (1, "")
    assert answer in err
    assert len(err.splitlines()) == 1


def test_an_empty_database_is_told_apart_from_one_that_is_away(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("drop schema public cascade; create schema public"))
    engine.dispose()
    monkeypatch.setenv("MLOPS_DATABASE_URL", database_url)
    status, _, err = run("champion", "tumour")
    assert (status, len(err.splitlines())) == (1, 1)
    assert "make up" in err
    assert "tables" in err


@pytest.mark.parametrize(
    "command",
    [
        "keys add a --days nan",
        "keys add a --days inf",
        "keys add a --days 1e300",
        "keys add a --days -1",
        "keys add a --quota nan",
        "keys add a --quota inf",
        "keys rotate a --overlap nan",
        "keys rotate a --overlap 1e300",
        "rollout tumour start --version 1 --reason r --set share=nan",
        "rollout tumour start --version 1 --reason r --set steps=1,x",
        "rollout tumour start --version 1 --reason r --set steps=,",
    ],
)
def test_a_number_that_counts_nothing_is_refused_with_its_option(
    command: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = run(*command.split())
    assert (status, out) == (2, "")
    assert command.split()[-2] in err
    assert "keys" not in command or not run("keys", "list")[1].splitlines()[1:]


def test_an_argument_that_is_no_text_and_a_home_that_is_no_folder_are_told_in_one_line(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, _, err = run("champion", "tumour\udcff")
    assert (status, err) == (1, "mlops: the argument 'tumour\\udcff' is not UTF-8 text\n")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "file"))
    status, _, err = run("status")
    assert (status, len(err.splitlines())) == (1, 1)
    assert f"MLOPS_HOME ({tmp_path / 'file'}) must be a folder that you can write to" in err


def test_names_of_parts_and_passwords_are_refused_with_the_nearest(tmp_path: Path) -> None:
    from include.stack import credentials

    with pytest.raises(names.UnknownName, match="did you mean 'scheduler'"):
        names.one_of("part", "shceduler", ("postgres", "scheduler"), "the stack")
    made = credentials.read_or_create(Home(tmp_path).credentials)
    with pytest.raises(credentials.CredentialsError, match="did you mean 'mlflow'"):
        made.named("mlfow")
    with pytest.raises(names.UnknownName, match="registered are 1, 4"):
        names.version("tumour", 3, [4, 1])
    with pytest.raises(names.UnknownName, match=r"params\.yaml has none"):
        names.one_of("source", "x", [], "params.yaml")


def test_alerts_are_listed_and_acknowledged_and_come_from_the_file_while_postgresql_is_away(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    from include import alerting

    alerting.send(tmp_path / "var", "task_failed", "train_tumour failed")
    status, out, err = run("alerts")
    assert status == 0
    assert "train_tumour failed" in out
    assert "PostgreSQL does not answer" in err
    assert "this machine's file" in err
    monkeypatch.setenv("MLOPS_DATABASE_URL", database_url)
    status, out, err = run("alerts")
    assert (status, err) == (0, "")
    assert "task_failed" in out
    assert run("alerts", "--acknowledge", out.split()[0])[1] == "1 alerts acknowledged\n"
    assert run("alerts")[1] == "no alert that nobody has acknowledged\n"
    assert "seen by" in run("alerts", "--all")[1]
    status, _, err = run("alerts", "--event", "task_faild")
    assert (status, "did you mean 'task_failed'" in err) == (1, True)
    assert run("alerts", "--acknowledge", "zz")[0] == 1


def test_a_channel_that_does_not_have_every_alert_is_named_with_the_reason(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    from include import alerting
    from include.alerting.place import Failure, Place

    monkeypatch.setenv("MLOPS_DATABASE_URL", database_url)
    alerting.send(tmp_path / "var", "task_failed", "train_tumour failed")
    moment = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    Place(tmp_path / "var", "slack-3fa2c1").note(Failure(moment, 4, "error=403", moment))
    status, _, err = run("alerts")
    assert status == 0
    assert "slack-3fa2c1: 1 alert not delivered" in err
    assert "4 attempts since 2026-03-01 12:00:00" in err
    assert "error=403" in err


def test_a_model_is_retired_with_a_reason_and_comes_back_by_name(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    from include import database
    from include.deployment import ledger
    from tests.include.deployment import trials

    monkeypatch.setenv("MLOPS_DATABASE_URL", database_url)
    engine = database.connect(database_url)
    assert "nothing serves it" in run("retire", "tumour", "--reason", "x")[1]
    trials.crown(engine, 1, model="tumour")
    assert run("retire", "tumour")[0] != 0, "a reason is needed"
    assert run("retire", "tumuor", "--reason", "x")[0] == 1
    monkeypatch.setattr("include.deployment.verification.retired", lambda *_, **__: verification.Seen(0.1, 1))
    status, out, err = run("retire", "tumour", "--reason", "the ward was closed")
    assert status == 0
    assert "tumour: version 1 was retired; nothing is deleted" in out
    assert "params.yaml still names tumour" in err
    assert "its runs in Airflow, if any, go on: no stack was started" in err
    assert ledger.champion(engine, "tumour") is None
    assert "retire 1" in run("history", "tumour")[1]
    assert "has no champion" in run("champion", "tumour")[2]
    status, _, err = run("rollback", "tumour", "--reason", "open again")
    assert (status, "name a version that was one" in err) == (1, True)
    run("rollback", "tumour", "--reason", "open again", "--to", "1")
    found = ledger.champion(engine, "tumour")
    assert found is not None
    assert found.version == 1
    engine.dispose()
