"""Who is let in: keys with scopes and quotas, changed while the service runs."""

from __future__ import annotations

import base64
import datetime as dt
import os
import time
from pathlib import Path

import pytest
import time_machine
from prometheus_client import CollectorRegistry

from include.home import Home
from include.inference.errors import Refused
from include.serving import api_keys
from include.serving.http import authentication
from include.serving.http.authentication import Authentication
from include.serving.metrics.prometheus import Metrics
from tests.waiting import until


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Home(tmp_path).serving_keys


def access_of(file: Path | None, **more: object) -> Authentication:
    return Authentication(file, Metrics(CollectorRegistry()), **more)  # type: ignore[arg-type]


def refused(gate: Authentication, authorization: bytes | None, scope: str = "predict") -> Refused:
    with pytest.raises(Refused) as caught:
        gate.caller(authorization, scope)
    return caught.value


def looked_again(gate: Authentication) -> Authentication:
    """As if the time between two looks at the file had passed."""
    gate._next_check = 0.0
    return gate


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [(["predict"], {"predict"}), (["feedback"], {"feedback"}), (["predict", "feedback"], {"predict", "feedback"}),
     (["admin"], {"predict", "feedback", "admin"})],
)  # fmt: skip
def test_a_key_may_do_what_its_scopes_name_and_nothing_else(file: Path, scopes: list[str], allowed: set[str]) -> None:
    sent = bearer(api_keys.add(file, "billing", scopes, now=now()))
    gate = access_of(file)
    for scope in api_keys.SCOPES:
        assert gate.allows(sent, scope) is (scope in allowed)
        if scope in allowed:
            assert gate.caller(sent, scope).name == "billing"
        else:
            error = refused(gate, sent, scope)
            assert (error.status, error.code) == (403, "forbidden")
            assert f"lacks the scope {scope!r}" in error.message


@pytest.mark.parametrize(
    "sent",
    [None, b"", b"Bearer", b"Bearer ", b"Bearer wrong", b"Bearer  ", b"secret", b"Basic !", b"Basic " + b"=" * 9,
     b"Digest secret", b"Bearer " + b"x" * 100_000, b"\xff\x00", b"Basic c2VjcmV0"],
)  # fmt: skip
def test_whatever_is_no_key_is_refused_with_how_to_send_one(file: Path, sent: bytes | None) -> None:
    api_keys.add(file, "billing", ["predict"], now=now())
    gate = access_of(file, key="secret")
    error = refused(gate, sent)
    assert (error.status, error.code) == (401, "unauthorized")
    assert "Authorization: Bearer <key>" in error.message
    assert not gate.allows(sent, "predict")


def test_a_browser_sends_the_key_as_its_password_and_schemes_have_no_case(file: Path) -> None:
    secret = api_keys.add(file, "ann", ["predict"], now=now())
    gate = access_of(file)
    basic = b"Basic " + base64.b64encode(f"anybody:{secret}".encode())
    for sent in (basic, b"bearer " + secret.encode(), b"BEARER  " + secret.encode()):
        assert gate.caller(sent, "predict").name == "ann"


def test_the_environments_key_may_do_everything_and_an_open_service_needs_none(file: Path) -> None:
    alone = access_of(file, key="secret")
    assert alone.caller(b"Bearer secret", "admin").name == "MLOPS_SERVING_KEY"
    assert refused(alone, None).status == 401
    everybody = access_of(None, open_to_all=True)
    assert everybody.caller(None, "admin").name == "anybody"
    assert everybody.allows(b"Bearer whatever", "admin")
    assert refused(access_of(None, open_to_all=True, key="secret"), None).status == 401  # a key is meant to be needed


def test_a_service_that_nobody_could_use_knows_it(file: Path) -> None:
    assert access_of(file).closed
    assert not access_of(file, key="secret").closed
    assert not access_of(file, open_to_all=True).closed
    api_keys.add(file, "billing", ["predict"], now=now())
    assert not access_of(file).closed


# ------------------------------------------------------------------------------------- changes without a restart


def test_keys_are_added_rotated_and_revoked_without_a_restart(file: Path) -> None:
    first = api_keys.add(file, "billing", ["predict"], now=now())
    gate = access_of(file)
    second = api_keys.add(file, "shop", ["predict"], now=now())
    third = api_keys.rotate(file, "billing", now=now(), overlap=dt.timedelta(hours=1))
    looked_again(gate)
    for secret in (first, second, third):
        assert gate.caller(bearer(secret), "predict")
    api_keys.revoke(file, "billing")
    looked_again(gate)
    assert gate.caller(bearer(second), "predict")
    for secret in (first, third):
        assert refused(gate, bearer(secret)).status == 401
    api_keys.revoke(file, "shop")
    assert refused(looked_again(gate), bearer(second)).status == 401


def test_a_change_counts_by_itself(file: Path) -> None:
    api_keys.add(file, "billing", ["predict"], now=now())
    gate = access_of(file)
    secret = bearer(api_keys.add(file, "shop", ["predict"], now=now()))
    until(lambda: gate.allows(secret, "predict"))


def test_a_key_ends_when_it_expires_and_says_so(file: Path) -> None:
    sent = bearer(api_keys.add(file, "trial", ["predict"], now=now(), expires=now() + dt.timedelta(hours=1)))
    gate = access_of(file)
    assert gate.caller(sent, "predict").name == "trial"
    with time_machine.travel(now() + dt.timedelta(hours=2)):
        assert "the key 'trial' expired at 2" in refused(looked_again(gate), sent).message


@pytest.mark.parametrize("damage", ["text", "mode", "gone"])
def test_a_damaged_file_leaves_the_last_good_keys_and_is_said(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = bearer(api_keys.add(file, "billing", ["predict"], now=now()))
    good = file.read_bytes()
    registry = CollectorRegistry()
    gate = Authentication(file, Metrics(registry))
    if damage == "text":
        file.write_text('{"keys": [')
    elif damage == "mode":
        file.chmod(0o666)
    else:
        file.unlink()
    with caplog.at_level("INFO", "mlops.serving"):
        assert looked_again(gate).caller(secret, "predict")
        assert looked_again(gate).caller(secret, "predict")
    told = [record for record in caplog.records if record.getMessage().startswith("keys not read")]
    assert [record.levelname for record in told] == ["ERROR"]  # once, not at every look
    assert gate.problem is not None
    assert str(file) in gate.problem
    assert registry.get_sample_value("mlops_serving_keys_damaged") == 1
    file.write_bytes(good)
    file.chmod(0o600)
    assert looked_again(gate).caller(secret, "predict")
    assert gate.problem is None
    assert registry.get_sample_value("mlops_serving_keys_damaged") == 0


def test_a_service_that_starts_with_a_damaged_file_still_knows_the_environments_key(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("{")
    gate = access_of(file, key="secret")
    assert gate.problem
    assert gate.caller(b"Bearer secret", "predict")
    assert access_of(file).closed


# ------------------------------------------------------------------------------------------------ quotas, guessing


def test_beyond_its_quota_a_key_is_told_when_to_come_again_and_the_others_are_not_touched(file: Path) -> None:
    greedy = bearer(api_keys.add(file, "greedy", ["predict"], now=now(), requests_per_second=20))
    modest = bearer(api_keys.add(file, "modest", ["predict"], now=now()))
    gate = access_of(file)
    for _ in range(20):
        gate.caller(greedy, "predict")
    error = refused(gate, greedy)
    assert (error.status, error.code) == (429, "quota")
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 0.05
    assert gate.caller(modest, "predict")
    time.sleep(0.15)
    assert gate.caller(greedy, "predict")


def test_the_default_quota_counts_for_keys_without_one_and_in_an_open_service(file: Path) -> None:
    sent = bearer(api_keys.add(file, "billing", ["predict"], now=now()))
    gate = access_of(file, requests_per_second=2)
    assert [gate.caller(sent, "predict").name for _ in range(2)] == ["billing"] * 2
    assert refused(gate, sent).status == 429
    everybody = access_of(None, open_to_all=True, requests_per_second=1)
    everybody.caller(None, "predict")
    assert refused(everybody, None).status == 429


def test_neither_a_rotation_nor_a_change_of_the_file_fills_a_quota(file: Path) -> None:
    old = api_keys.add(file, "billing", ["predict"], now=now(), requests_per_second=0.01)
    gate = access_of(file)
    gate.caller(bearer(old), "predict")
    new = api_keys.rotate(file, "billing", now=now(), overlap=dt.timedelta(hours=1))
    assert refused(looked_again(gate), bearer(new)).status == 429


def test_guessing_is_answered_with_429_and_locks_no_good_key_out(file: Path) -> None:
    good = bearer(api_keys.add(file, "billing", ["predict"], now=now()))
    gate = access_of(file)
    began = time.monotonic()
    seen = [refused(gate, f"Bearer guess{n}".encode()) for n in range(200)]
    seconds = time.monotonic() - began
    told = [error for error in seen if error.status == 401]
    assert len(told) <= authentication.FAILURES_AT_ONCE + authentication.FAILURES_PER_SECOND * seconds + 1
    held_off = [error for error in seen if error.status != 401]
    assert {(error.status, error.code) for error in held_off} == {(429, "too_many_failures")}
    assert all(error.retry_after is not None for error in held_off)
    assert all(gate.caller(good, "predict") for _ in range(100))
    assert refused(gate, None).status == 401  # who sends no key is told that one is needed


def test_the_file_is_not_looked_at_by_every_request(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = bearer(api_keys.add(file, "billing", ["predict"], now=now()))
    gate = access_of(file)
    looks = []
    real = os.stat

    def counted(*arguments: object, **more: object) -> os.stat_result:
        looks.append(arguments)
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", counted)
    for _ in range(1000):
        gate.caller(sent, "predict")
    assert len(looks) <= 2
