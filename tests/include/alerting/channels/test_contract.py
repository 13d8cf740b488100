"""What every channel must do, whatever it delivers to."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from include import database, settings
from include.alerting import channels
from include.alerting.alert import Alert
from include.alerting.channels import Channel
from tests.include.alerting.receiver import SECRET, Receiver


@dataclass
class Case:
    """A kind of channel with a destination that works, and one that does not answer."""

    working: settings.Environment
    dead: settings.Environment
    delivered: Callable[[], list[str]]
    """The messages that arrived, oldest first, each once."""


NOWHERE = f"postgresql+psycopg2://platform:{SECRET}@127.0.0.1:9/none"
OFF = settings.Environment(database_url="", alert_urls=SecretStr(""))


@pytest.fixture(params=channels.names())
def case(request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[Case]:
    if request.param == "postgresql":
        engine = database.connect(url := request.getfixturevalue("database_url"))

        def rows() -> list[str]:
            with engine.connect() as connection:
                return list(connection.execute(sa.select(database.alerts.c.message).order_by("at")).scalars())

        yield Case(OFF.model_copy(update={"database_url": url}), OFF.model_copy(update={"database_url": NOWHERE}), rows)
        engine.dispose()
    elif request.param == "apprise":
        dead = SecretStr(f"json://{SECRET}:{SECRET}@127.0.0.1:9/{SECRET}")
        working = OFF.model_copy(update={"alert_urls": SecretStr(receiver.url)})
        with receiver.up():
            yield Case(
                working, OFF.model_copy(update={"alert_urls": dead}), lambda: list(dict.fromkeys(receiver.messages))
            )
    else:
        pytest.fail(f"include/alerting/channels/{request.param}.py has no case here")


def only(environment: settings.Environment) -> Channel:
    [channel] = channels.declared(environment)
    return channel


def alerts(count: int) -> list[Alert]:
    start = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    return [
        Alert(str(uuid.uuid4()), start + dt.timedelta(minutes=n), "task_failed", f"number {n} <b>", {"n": n, "x": [1]})
        for n in range(count)
    ]


def batches(channel: Channel, sent: list[Alert]) -> Iterator[list[Alert]]:
    for at in range(0, len(sent), channel.batch):
        yield sent[at : at + channel.batch]


def test_where_the_environment_names_none_no_channel_is_on() -> None:
    assert channels.declared(OFF) == []


def test_its_name_is_a_files_stays_and_has_no_secret(case: Case) -> None:
    channel = only(case.dead)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", channel.name)
    assert channel.name == only(case.dead).name
    assert SECRET not in channel.name + repr(channel)
    assert channel.batch >= 1
    assert channel.longest_wait >= 1


def test_alerts_arrive_in_order_and_may_be_repeated(case: Case) -> None:
    channel, sent = only(case.working), alerts(5)
    for _ in range(2):
        for batch in batches(channel, sent):
            channel.deliver(batch)
    assert case.delivered() == [alert.message for alert in sent]


def test_where_its_destination_is_dead_it_raises_one_line_without_a_secret(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger="mlops"), pytest.raises(Exception, match=r"\w") as raised:
        only(case.dead).deliver(alerts(1))
    assert SECRET not in str(raised.value) + caplog.text
