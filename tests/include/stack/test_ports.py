"""Ports: chosen once, and explained when they are taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from include.stack import ports
from tests.conftest import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield int(sock.getsockname()[1])


def all_free() -> dict[str, int]:
    return {part: free_port() for part in ports.DEFAULTS}


def test_the_environment_sets_ports() -> None:
    assert ports.explicit({"MLOPS_AIRFLOW_PORT": "9000", "MLOPS_HOME": "/x"}) == {"airflow": 9000}


@pytest.mark.parametrize("value", ["http", "0", "70000", "-1"])
def test_what_is_no_port_is_refused_by_name(value: str) -> None:
    with pytest.raises(ports.PortError, match="MLOPS_MLFLOW_PORT"):
        ports.explicit({"MLOPS_MLFLOW_PORT": value})


def test_two_parts_cannot_share_a_port() -> None:
    with pytest.raises(ports.PortError, match=r"MLOPS_AIRFLOW_PORT and MLOPS_SERVING_PORT are both 9000"):
        ports.explicit({"MLOPS_AIRFLOW_PORT": "9000", "MLOPS_SERVING_PORT": "9000"})


def test_a_port_that_was_asked_for_and_is_taken_is_one_line_with_holder_and_variable(taken: int) -> None:
    with pytest.raises(ports.PortError) as error:
        ports.choose({**all_free(), "airflow": taken}, {})
    message = str(error.value)
    assert "\n" not in message
    assert f"port {taken} (airflow) is in use by" in message
    assert "MLOPS_AIRFLOW_PORT" in message


def test_a_remembered_port_that_is_taken_is_told_too(taken: int) -> None:
    with pytest.raises(ports.PortError, match="MLOPS_SERVING_PORT"):
        ports.choose({}, {**all_free(), "serving": taken})


def test_at_the_first_start_a_usual_port_that_is_taken_gives_way_to_a_free_one(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "DEFAULTS", {**all_free(), "airflow": taken})
    choice = ports.choose({}, {})
    assert choice.ports["airflow"] != taken
    assert str(taken) in choice.notices[0]
    assert "MLOPS_AIRFLOW_PORT" in choice.notices[0]


def test_the_same_number_is_never_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(ports, "DEFAULTS", dict.fromkeys(ports.DEFAULTS, port))
    chosen = ports.choose({}, {}).ports
    assert len(set(chosen.values())) == len(chosen)
