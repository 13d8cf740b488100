"""The keys' file: private, whole at any time, and nobody's key is lost by another's change."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from include.home import Home
from include.serving import api_keys

NOW = dt.datetime(2026, 3, 2, 8, 30, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Home(tmp_path).serving_keys


def test_a_key_is_given_once_and_only_its_hash_is_kept_in_a_private_file(file: Path) -> None:
    secret = api_keys.add(file, "billing", ["predict"], now=NOW)
    assert len(secret) >= 43  # 256 bits
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert api_keys.read(file) == [api_keys.Key("billing", api_keys.digest(secret), ("predict",), NOW)]


@pytest.mark.parametrize(
    ("name", "scopes", "quota"),
    [("Billing", ["predict"], None), ("a b", ["predict"], None), ("a", ["everything"], None), ("a", [], None),
     ("a", ["predict"], 0.0), ("", ["predict"], None)],
)  # fmt: skip
def test_what_cannot_be_a_key_is_refused_and_nothing_is_written(
    file: Path, name: str, scopes: list[str], quota: float | None
) -> None:
    with pytest.raises(api_keys.KeysError, match="scopes are predict, feedback, admin"):
        api_keys.add(file, name, scopes, now=NOW, requests_per_second=quota)
    assert not file.exists()


def test_a_name_is_given_once(file: Path) -> None:
    api_keys.add(file, "billing", ["predict"], now=NOW)
    with pytest.raises(api_keys.KeysError, match="mlops keys rotate billing"):
        api_keys.add(file, "billing", ["feedback"], now=NOW)


def test_a_rotated_key_stays_valid_for_the_overlap_and_the_new_one_has_its_scopes_and_quota(file: Path) -> None:
    old = api_keys.add(file, "billing", ["predict"], now=NOW, requests_per_second=5)
    new = api_keys.rotate(file, "billing", now=NOW + DAY, overlap=dt.timedelta(hours=2))
    before, after = api_keys.read(file)
    assert (before.sha256, before.expires) == (api_keys.digest(old), NOW + DAY + dt.timedelta(hours=2))
    assert (after.sha256, after.expires) == (api_keys.digest(new), None)
    assert (after.scopes, after.requests_per_second) == (("predict",), 5)


def test_rotating_twice_does_not_lengthen_the_first_ones_life_and_forgets_what_has_expired(file: Path) -> None:
    first = api_keys.add(file, "billing", ["predict"], now=NOW)
    api_keys.rotate(file, "billing", now=NOW, overlap=DAY)
    api_keys.rotate(file, "billing", now=NOW + DAY / 2, overlap=DAY)
    assert {key.sha256: key.expires for key in api_keys.read(file)}[api_keys.digest(first)] == NOW + DAY
    api_keys.rotate(file, "billing", now=NOW + 5 * DAY, overlap=DAY)
    assert len(api_keys.read(file)) == 2


def test_a_key_that_was_to_expire_is_replaced_by_one_that_lives_as_long(file: Path) -> None:
    api_keys.add(file, "trial", ["predict"], now=NOW, expires=NOW + 30 * DAY)
    api_keys.rotate(file, "trial", now=NOW + 20 * DAY, overlap=DAY)
    assert [key.expires for key in api_keys.read(file)] == [NOW + 21 * DAY, NOW + 50 * DAY]


def test_a_revoked_key_is_gone_and_an_unknown_one_is_answered_with_the_known(file: Path) -> None:
    api_keys.add(file, "billing", ["predict"], now=NOW)
    api_keys.rotate(file, "billing", now=NOW, overlap=DAY)
    assert api_keys.revoke(file, "billing") == 2
    assert api_keys.read(file) == []
    api_keys.add(file, "shop", ["predict"], now=NOW)
    for change in (api_keys.revoke, lambda f, n: api_keys.rotate(f, n, now=NOW, overlap=DAY)):
        with pytest.raises(api_keys.KeysError, match="no key 'billing'; there are shop"):
            change(file, "billing")


def test_the_stacks_own_keys_are_kept_up_to_date_and_those_that_people_added_stay(file: Path) -> None:
    api_keys.ensure(file, {"serving": ("one", ["predict"]), "serving-admin": ("root", ["admin"])}, now=NOW)
    written = file.stat().st_ino
    api_keys.ensure(file, {"serving": ("one", ["predict"]), "serving-admin": ("root", ["admin"])}, now=NOW + DAY)
    assert file.stat().st_ino == written  # nothing had changed, nothing was written
    api_keys.add(file, "billing", ["predict"], now=NOW)
    api_keys.ensure(file, {"serving": ("two", ["predict"]), "serving-admin": ("root", ["admin"])}, now=NOW + DAY)
    held = {key.name: key.sha256 for key in api_keys.read(file)}
    assert held.keys() == {"serving", "serving-admin", "billing"}
    assert held["serving"] == api_keys.digest("two")


def test_the_stacks_own_key_that_is_being_replaced_lives_to_the_end_of_its_overlap(file: Path) -> None:
    api_keys.ensure(file, {"serving": ("one", ["predict"])}, now=NOW)
    api_keys.rotate(file, "serving", now=NOW, overlap=DAY, secret="two")
    api_keys.ensure(file, {"serving": ("two", ["predict"])}, now=NOW)
    assert {key.sha256: key.expires for key in api_keys.read(file)} == {
        api_keys.digest("one"): NOW + DAY,
        api_keys.digest("two"): None,
    }


def _add_some(file: Path, worker: int) -> None:
    for n in range(10):
        api_keys.add(file, f"k{worker}-{n}", ["predict"], now=NOW)


def test_writers_at_the_same_time_lose_nothing(file: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_some, args=(file, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(api_keys.read(file)) == 30


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"keys": [{"name": "a"}]}', '{"keys": [], "more": 1}', "\udcff",
     '{"keys": [{"name": "a", "sha256": "00", "scopes": ["predict"], "created": "2026-03-02T08:30:00Z"}]}'],
)  # fmt: skip
def test_a_damaged_file_is_told_with_the_remedy_and_is_not_overwritten(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_bytes(text.encode(errors="surrogateescape"))
    file.chmod(0o600)
    for use in (lambda: api_keys.read(file), lambda: api_keys.add(file, "a", ["predict"], now=NOW)):
        with pytest.raises(api_keys.KeysError, match=r"keys\.json is damaged .*`mlops up`"):
            use()
    assert file.read_bytes() == text.encode(errors="surrogateescape")


def test_a_file_that_others_may_change_is_refused_with_the_remedy(file: Path) -> None:
    api_keys.add(file, "a", ["predict"], now=NOW)
    file.chmod(0o620)
    with pytest.raises(api_keys.KeysError, match="chmod 600"):
        api_keys.read(file)


def test_a_time_without_a_zone_is_refused(file: Path) -> None:
    api_keys.add(file, "a", ["predict"], now=NOW)
    document = json.loads(file.read_text())
    document["keys"][0]["expires"] = "2026-03-02T08:30:00"
    file.write_text(json.dumps(document))
    with pytest.raises(api_keys.KeysError, match="damaged"):
        api_keys.read(file)
