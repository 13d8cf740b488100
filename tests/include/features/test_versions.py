"""Versions: incremental, private, exact, and unharmed by kills, corruption and a remote that is down."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import storage
from include.features import versions
from include.features.feature_set import FeatureError
from include.settings import ROOT
from tests.waiting import until

from .conftest import Place, day, trips

pytestmark = pytest.mark.slow


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def workspaces(place: Place) -> list[str]:
    return [p.name for p in (place.home / "dvc" / "work").iterdir() if p.is_dir()]


def test_a_new_day_costs_one_day_and_nothing_new_costs_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    first = place.build()
    assert first.computed == first.partitions == [day(0), day(1), day(2)]
    assert (first.rows, first.dropped) == (150, 0)

    place.publish("rides", day(3), trips(day(3)))
    second = place.build()
    assert (second.computed, second.reused, second.rows) == ([day(3)], 3, 200)
    assert second.version != first.version

    third = place.build()
    assert (third.computed, third.reused, third.version) == ([], 4, second.version)
    assert versions.latest(place.database_url, "ride").version == second.version
    assert workspaces(place) == []


def test_a_partition_that_is_withdrawn_or_ingested_again_changes_just_itself(place: Place) -> None:
    first = place.build()
    place.publish("rides", day(1), trips(day(1), slower=2.0))
    place.withdraw("rides", day(0))
    second = place.build()
    assert (second.computed, second.partitions) == ([day(1)], [day(1), day(2)])
    place.publish("rides", day(1), trips(day(1)))
    place.publish("rides", day(0), trips(day(0)))
    again = place.build()
    assert again.version == first.version
    assert versions.latest(place.database_url, "ride").version == first.version


def test_the_window_keeps_the_newest_partitions(place: Place) -> None:
    place.params.write_text(
        place.params.read_text().replace("target: duration_minutes", "target: duration_minutes\n    window: 2", 1)
    )
    assert place.build().partitions == [day(1), day(2)]


def test_changed_features_compute_everything_again(place: Place) -> None:
    place.build()
    place.params.write_text(
        place.params.read_text().replace(
            "definition: trip_duration,", "definition: trip_duration, derived: {twice: trip_distance * 2},"
        )
    )
    changed = place.build()
    assert changed.computed == changed.partitions
    restored = place.restore(changed.version, place.root / "back")
    assert "twice" in pq.read_schema(restored / f"{day(0)}.parquet").names


def everything(place: Place, **changes: list[str]) -> None:
    """Let `walk` take all columns of its source, but for `changes` of its features."""
    features = "".join(f"{key}: [{', '.join(names)}], " for key, names in changes.items())
    head = place.params.read_text().split("  walk:")[0]
    walk = f"source: walks, target: duration_minutes, task: regression, features: {{{features}}}"
    place.params.write_text(f"{head}  walk: {{{walk}}}\n")


def inputs(place: Place, made: versions.FeatureVersion) -> set[str]:
    folder = place.restore(made.version, place.root / f"back-{made.version}", "walk")
    return set(json.loads((folder / "feature_set.json").read_bytes())["spec"]["inputs"])


def test_a_column_that_a_new_file_adds_becomes_an_input_only_when_params_yaml_names_it(place: Place) -> None:
    """New York's taxis got `cbd_congestion_fee` in 2025; pandas writes `__index_level_0__` by mistake."""
    everything(place)
    place.publish("walks", day(0), trips(day(0)))
    first = place.build("walk")
    taken = set(trips(day(0)).column_names) - {"pickup_datetime", "duration_minutes"}
    assert inputs(place, first) == taken

    more = trips(day(1)).append_column("cbd_congestion_fee", pa.array([0.75] * 50))
    more = more.append_column("__index_level_0__", pa.array(range(50)))
    place.publish("walks", day(1), more.append_column("paid_at", more["pickup_datetime"]))
    second = place.build("walk")
    assert (second.computed, second.reused) == ([day(1)], 1)
    assert inputs(place, second) == taken
    why = "came after the inputs were decided; `features.include: [{}]` makes it one"
    extra = ("cbd_congestion_fee", "__index_level_0__", "paid_at")
    assert second.left_out == {column: why.format(column) for column in extra}

    everything(place, include=["cbd_congestion_fee"])
    with pytest.raises(versions.FeatureVersionError, match=rf"{day(0)} of walks has no column 'cbd_.*`window` begin"):
        place.build("walk")
    place.withdraw("walks", day(0))
    third = place.build("walk")
    assert inputs(place, third) == {*taken, "cbd_congestion_fee"}
    assert set(third.left_out) == {"__index_level_0__", "paid_at"}


def test_the_first_version_takes_the_columns_that_all_partitions_have(place: Place) -> None:
    everything(place)
    place.publish("walks", day(0), trips(day(0)))
    place.publish("walks", day(1), trips(day(1)).append_column("fee", pa.array([0.75] * 50)))
    made = place.build("walk")
    assert "fee" not in inputs(place, made)
    assert set(made.left_out) == {"fee"}


def test_a_column_that_vanishes_stops_the_features_with_advice_that_helps(place: Place) -> None:
    everything(place)
    place.publish("walks", day(0), trips(day(0)))
    place.build("walk")
    place.publish("walks", day(1), trips(day(1)).drop_columns(["passenger_count"]))
    with pytest.raises(FeatureError, match=rf"{day(1)} of walks has no column 'passenger_count' any more.*exclude: \["):
        place.build("walk")
    everything(place, exclude=["passenger_count"])
    made = place.build("walk")
    assert "passenger_count" not in inputs(place, made)
    assert made.partitions == [day(0), day(1)]


def test_a_version_comes_back_to_the_byte_after_its_partitions_were_overwritten(place: Place) -> None:
    first = place.build()
    before = hashes(place.restore(first.version, place.root / "before"))
    for number in range(3):
        place.publish("rides", day(number), trips(day(number), slower=3.0))
    assert place.build().version != first.version
    assert hashes(place.restore(first.version, place.root / "after")) == before
    elsewhere = dataclasses.replace(place, root=place.root)
    into = versions.restore(
        "ride", first.version, place.root / "other", database_url=elsewhere.database_url,
        remote_url=str(place.remote), home=place.root / "another machine",
    )  # fmt: skip
    assert hashes(into) == before, "from the remote alone"


def test_restoring_replaces_nothing_that_is_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = place.build()
    mine = place.root / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (place.root / "link").symlink_to(mine)
    (place.root / "file").write_text("a file")
    here = place.root / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for into in (mine, place.root / "link", place.root / "file", Path(".."), Path("../mine"), Path("../new/../mine")):
        with pytest.raises(versions.NotEmpty, match="name a new"):
            place.restore(made.version, into)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert (place.root / "file").read_text() == "a file"
    assert not [path for path in place.root.iterdir() if path.name.startswith(".")]
    for empty in (here, place.root / "deep" / "new"):
        assert len(list(place.restore(made.version, empty).glob("*.parquet"))) == 3


def test_an_unknown_version_names_those_there_are(place: Place) -> None:
    made = place.build()
    with pytest.raises(versions.FeatureVersionError, match=made.version):
        place.restore("0" * 32, place.root / "back")


def test_a_partition_swapped_after_validation_is_refused(place: Place) -> None:
    """Promise 8: features are built from the bytes that validation recorded, or not at all."""
    file = storage.join(str(place.data), "validated", "rides", f"{day(1)}.parquet")
    storage.write_table(file, trips(day(1), slower=9.0))
    with pytest.raises(storage.ChangedFile, match=day(1)):
        place.build()
    assert versions.latest(place.database_url, "ride") is None
    place.publish("rides", day(1), trips(day(1)))
    assert place.build().rows == 150


def test_without_published_partitions_the_dag_to_run_is_named(place: Place) -> None:
    with pytest.raises(versions.FeatureVersionError, match="ingest_walks"):
        place.build("walk")


def test_a_fault_of_the_features_names_partition_and_column(place: Place) -> None:
    table = trips(day(1))
    place.publish("rides", day(1), table.drop_columns(["rate_code_id"]))
    with pytest.raises(versions.FeatureVersionError, match=f"{day(1)}.*rate_code_id"):
        place.build()


def test_the_users_checkout_stays_as_it_is(place: Place) -> None:
    def state() -> list[tuple[str, int, int]]:
        skip = {
            ".git",
            ".venv",
            "var",
            "__pycache__",
            ".pytest_cache",
            ".mypy_cache",
            ".ruff_cache",
            "tests",
            "benchmarks",
        }
        found = [
            p
            for p in ROOT.iterdir()
            if p.name in ("dvc.yaml", "dvc.lock", "params.yaml", "features", "inputs", ".dvcignore")
        ]
        found += [p for p in (ROOT / ".dvc").rglob("*") if p.is_file()]
        return sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in found if p.name not in skip)

    before = state()
    place.build()
    assert state() == before


def test_two_models_and_two_builds_of_one_do_not_disturb_each_other(place: Place) -> None:
    """Promise 10: builds at once end as if they had run one after the other."""
    for number in range(2):
        place.publish("walks", day(number), trips(day(number)))
    arguments = {"params_path": str(place.params), "data_url": str(place.data), "database_url": place.database_url}
    running = [start(place, model) for model in ("ride", "walk", "ride")]
    results = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], arguments
    ride, walk, again = results
    assert ride["version"] == again["version"]
    assert sorted([ride["reused"], again["reused"]]) == [0, 3], "the second of one model found all done"
    assert walk["rows"] == 100
    assert workspaces(place) == []


CHILD = """
import dataclasses, json, sys
from pathlib import Path
from include.features import versions
a = json.loads(sys.argv[1])
made = versions.build(a.pop("model"), params_path=Path(a.pop("params_path")), home=Path(a.pop("home")), **a)
print(json.dumps(dataclasses.asdict(made)))
"""


def start(place: Place, model: str = "ride") -> subprocess.Popen[str]:
    arguments = {"model": model, "params_path": str(place.params), "data_url": str(place.data)}
    arguments |= {name: str(value) for name, value in place.arguments().items()}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def stages_of(place: Place) -> list[int]:
    """The processes whose working directory is below this test's home."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str((entry / "cwd").readlink()).startswith(str(place.home)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds the stage's process in /proc")
@pytest.mark.parametrize("moment", ["workspace", "stage", "output", "pending"])
def test_a_build_killed_at_any_moment_leaves_no_lock_and_no_orphan(place: Place, moment: str) -> None:
    """Promise 9: only the main process is killed, with SIGKILL; the next build works and nothing is still writing."""
    for number in range(3, 40):
        place.publish("rides", day(number), trips(day(number), 20_000 if moment in ("stage", "output") else 50))
    process = start(place)
    work = place.home / "dvc" / "work"
    reached = {
        "workspace": lambda: any(work.glob("ride-*/dvc.yaml")),
        "stage": lambda: bool(stages_of(place)),
        "output": lambda: any(work.glob("ride-*/features/ride/*.parquet")),
        "pending": lambda: (place.home / "dvc" / "pending" / "ride.lock").exists(),
    }[moment]
    until(reached, moment, pause=0.002, unless=lambda: process.poll() is not None)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(2.0)
    assert stages_of(place) == [], "an orphan is still at work"
    made = place.build()
    assert len(made.partitions) == 40
    assert workspaces(place) == []
    back = place.restore(made.version, place.root / "back")
    assert len(list(back.glob("*.parquet"))) == 40


def test_a_version_is_recorded_only_when_the_remote_holds_it_and_a_retry_goes_on(place: Place) -> None:
    """Promise 11: a remote that is down fails the build; the retry computes nothing again."""
    place.remote.write_text("a file where the remote's folder should be")
    with pytest.raises(versions.FeatureVersionError, match="run the build again"):
        place.build()
    assert versions.latest(place.database_url, "ride") is None
    place.remote.unlink()
    resumed = place.build()
    assert (resumed.computed, resumed.reused) == ([], 3)
    assert versions.latest(place.database_url, "ride").version == resumed.version
    assert not (place.home / "dvc" / "pending" / "ride.lock").exists()


def test_an_object_that_the_remote_has_lost_is_pushed_again(place: Place) -> None:
    """Promise 11: a partial push is completed by the next build, also when nothing else changed."""
    made = place.build()
    lost = next(p for p in (place.remote / "files").rglob("*") if p.is_file() and not p.name.endswith(".dir"))
    lost.unlink()
    place.build()
    assert lost.exists()
    into = versions.restore(
        "ride",
        made.version,
        place.root / "b",
        database_url=place.database_url,
        remote_url=str(place.remote),
        home=place.root / "x",
    )
    assert len(list(into.glob("*.parquet"))) == 3


def spoil(folder: Path, *, suffix: str = "") -> Path:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.parent.name == "md5")
    victim = next(p for p in files if (p.name.endswith(".dir") if suffix else not p.name.endswith(".dir")))
    mode = victim.stat().st_mode
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(bytes(data))
    victim.chmod(mode)
    return victim


@pytest.mark.parametrize("suffix", ["", ".dir"])
def test_a_corrupt_cached_object_is_fetched_again(place: Place, suffix: str) -> None:
    """Promise 12: what is restored has the recorded hash, whatever happened to the cache."""
    made = place.build()
    before = hashes(place.restore(made.version, place.root / "before"))
    spoil(place.home / "dvc" / "cache", suffix=suffix)
    assert hashes(place.restore(made.version, place.root / "after")) == before
    spoil(place.home / "dvc" / "cache", suffix=suffix)
    place.publish("rides", day(3), trips(day(3)))
    grown = place.build()
    assert (grown.computed, grown.rows) == ([day(3)], 200)
    after = hashes(place.restore(grown.version, place.root / "grown"))
    assert {name: after[name] for name in before if name.endswith(".parquet")} == {
        name: digest for name, digest in before.items() if name.endswith(".parquet")
    }


def test_corrupt_everywhere_fails_and_gives_no_data(place: Place) -> None:
    """Promise 12: wrong bytes are never handed out."""
    made = place.build()
    name = spoil(place.home / "dvc" / "cache").name
    twin = next(p for p in place.remote.rglob(name))
    twin.chmod(0o644)
    twin.write_bytes(b"not parquet")
    with pytest.raises(versions.FeatureVersionError):
        place.restore(made.version, place.root / "back")
    assert not (place.root / "back").exists()


def test_a_spoilt_file_of_the_last_version_is_computed_again_when_no_copy_is_good(place: Place) -> None:
    place.build()
    name = spoil(place.home / "dvc" / "cache").name
    twin = next(p for p in place.remote.rglob(name))
    twin.chmod(0o644)
    twin.write_bytes(b"not parquet")
    place.publish("rides", day(3), trips(day(3)))
    assert place.build().rows == 200


def test_threads_may_build_two_models_in_one_process(place: Place) -> None:
    place.publish("walks", day(0), trips(day(0)))
    with ThreadPoolExecutor(2) as pool:
        ride, walk = pool.map(place.build, ["ride", "walk"])
    assert (ride.rows, walk.rows) == (150, 50)


def test_partitions_of_whole_and_of_broken_numbers_are_features_of_one_type(place: Place, tmp_path: Path) -> None:
    """The specimen: a month of int64 beside one of double, both green, then every training dies."""
    import pyarrow as pa

    from include.training.preparation.rows import read_partitions

    whole = trips(day(0)).set_column(4, "vendor_id", pa.array([1] * 50, pa.int64()))
    broken = trips(day(1)).set_column(4, "vendor_id", pa.array([None, 1.5] * 25, pa.float64()))
    place.publish("walks", day(0), whole)
    first = place.build("walk")
    place.publish("walks", day(1), broken)
    second = place.build("walk")
    assert second.computed == [day(0), day(1)]
    folder = place.restore(second.version, tmp_path / "both", "walk")
    table = read_partitions(sorted(folder.glob("*.parquet")), "walk")
    assert table.schema.field("vendor_id").type == pa.float64()
    assert table["vendor_id"].to_pylist()[48:52] == [1.0, 1.0, None, 1.5]
    before = place.restore(first.version, tmp_path / "first", "walk")
    assert pq.read_schema(before / f"{day(0)}.parquet").field("vendor_id").type == pa.int64()


def test_partitions_that_cannot_be_read_in_one_type_are_named_before_anything_is_computed(place: Place) -> None:
    import pyarrow as pa

    place.publish("walks", day(0), trips(day(0)))
    place.publish("walks", day(1), trips(day(1)).set_column(4, "vendor_id", pa.array(["1"] * 50)))
    with pytest.raises(
        versions.FeatureVersionError, match=f"column vendor_id is int in .* and string in {day(1)}.*replace"
    ):
        place.build("walk")
