from __future__ import annotations

import dataclasses
import datetime as dt
import math
import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from include import database, storage
from include.deployment import gate, ledger
from include.deployment.decisions import Decision
from include.deployment.gate import Evidence, decide
from include.settings import Features, Gate
from include.training import tracking
from tests.include.deployment import exhibits

GATE = Gate(baseline_margin=0.10, champion_margin=0.0, minimum_rows=50)


def evidence(candidate=None, reference=None, *, metric="mae", labelled=100, **more):
    return Evidence(metric, "the reference", 100, labelled, candidate, reference, **more)


@pytest.mark.parametrize(
    ("metric", "value", "reference", "better"),
    [
        ("mae", 4.0, 5.0, 0.2),
        ("mae", 6.0, 5.0, -0.2),
        ("mae", 0.0, 0.0, 0.0),
        ("mae", 1.0, 0.0, -math.inf),
        ("log_loss", 0.3, 0.6, 0.5),
        ("roc_auc", 0.55, 0.50, 0.1),
        ("roc_auc", 0.50, 0.55, -0.05 / 0.45),
        ("accuracy", 0.91, 0.90, 0.1),
        ("accuracy", 1.0, 1.0, 0.0),
        ("accuracy", 0.99, 1.0, -math.inf),
        ("r2", 0.1, 0.0, 0.1),
        ("r2", -1.0, -3.0, 0.5),
    ],
)
def test_how_much_better_is_a_share_of_the_error(metric, value, reference, better):
    assert gate.improvement(metric, value, reference) == pytest.approx(better)


@pytest.mark.parametrize(
    ("candidate", "baseline", "verdict", "reason"),
    [
        (4.4, 5.0, "PROMOTE", "better by 12.0%: mae 4.4 against 5"),
        (4.5, 5.0, "PROMOTE", "better by 10.0%"),
        (4.6, 5.0, "HOLD", "better by 8.0%, but 10% is required"),
        (5.0, 5.0, "HOLD", "not better"),
        (5.1, 5.0, "REJECT", "worse by 2.0%"),
        (math.nan, 5.0, "REJECT", "the candidate's mae is not a number"),
        (4.0, None, "HOLD", "the mae of the reference is not a number"),
    ],
)
def test_a_first_model_must_beat_its_baseline_by_the_margin(candidate, baseline, verdict, reason):
    decision = decide(evidence(candidate, baseline), GATE, first=True)
    assert decision.verdict == verdict
    assert decision.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("candidate", "baseline", "reason"),
    [
        (0.9994, 0.5, "better by 99.9% of the gap to 1: roc_auc 0.9994 against 0.5"),
        (0.52, 0.5, "better by 4.0% of the gap to 1, but 10% is required"),
        (0.45, 0.5, "worse by 10.0% of the gap to 1"),
    ],
)
def test_the_share_of_a_score_names_what_it_is_a_share_of(candidate, baseline, reason):
    found = dataclasses.replace(evidence(candidate, baseline), metric="roc_auc")
    assert decide(found, GATE, first=True).reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("candidate", "champion", "verdict"),
    [(4.99, 5.0, "PROMOTE"), (5.0, 5.0, "HOLD"), (5.0000001, 5.0, "REJECT")],
)
def test_a_later_model_must_beat_the_champion_and_a_tie_changes_nothing(candidate, champion, verdict):
    assert decide(evidence(candidate, champion), GATE, first=False).verdict == verdict


def test_a_margin_over_the_champion_holds_what_is_better_by_less():
    strict = Gate(champion_margin=0.05)
    assert decide(evidence(4.9, 5.0), strict, first=False).verdict == "HOLD"
    assert decide(evidence(4.7, 5.0), strict, first=False).verdict == "PROMOTE"


def test_larger_is_better_where_it_is():
    assert decide(evidence(0.97, 0.96, metric="roc_auc"), GATE, first=False).verdict == "PROMOTE"
    assert decide(evidence(0.96, 0.97, metric="roc_auc"), GATE, first=False).verdict == "REJECT"


def test_too_few_labels_hold_and_say_how_many():
    """Promise 24, as far as the source brings the labels."""
    decision = decide(evidence(1.0, 5.0, labelled=30), GATE, first=True)
    assert decision.verdict == "HOLD"
    text = "30 labelled held-out rows < 50 (coverage 30% of 100): too few to tell; train on more rows, or declare a"
    assert decision.reasons == [f"{text} `split` with a larger `test`"]


def test_a_verdict_names_the_suspects_whatever_it_is():
    for numbers in ((1.0, 5.0), (5.0, 1.0)):
        plain = decide(evidence(*numbers), GATE, first=True)
        assert gate.warned(plain, []) == plain
        decision = gate.warned(plain, ["'boat' alone explains the target (ROC AUC 0.998)"])
        assert decision.verdict == plain.verdict
        assert decision.reasons == [*plain.reasons, "suspect: 'boat' alone explains the target (ROC AUC 0.998)"]
        assert decision.numbers == {**plain.numbers, "suspects": 1}


def test_invalid_evidence_rejects_whatever_the_numbers_say():
    decision = decide(evidence(0.1, 5.0, invalid=("the holdout leaked",)), GATE, first=True)
    assert (decision.verdict, decision.reasons) == ("REJECT", ["the holdout leaked"])


def test_what_cannot_be_compared_is_held():
    decision = decide(evidence(0.1, None, incomparable=("its file is missing",)), GATE, first=False)
    assert (decision.verdict, decision.reasons) == ("HOLD", ["its file is missing"])


def test_the_numbers_are_kept_and_are_plain_data():
    numbers = decide(evidence(4.0, 5.0, extra={"seen_by_champion": 3}), GATE, first=False).numbers
    assert numbers == {
        "metric": "mae", "candidate": 4.0, "champion": 5.0, "rows": 100, "labelled": 100, "margin": 0.0,
        "seen_by_champion": 3, "improvement": pytest.approx(0.2),
    }  # fmt: skip
    assert decide(evidence(math.inf, 5.0), GATE, first=True).numbers["candidate"] is None


# ------------------------------------------------------------------------------------ evidence, from files


def judged(candidate, champion=None, **changes):
    entry = exhibits.entry(**changes)
    if champion is None:
        return decide(gate.first_evidence(candidate, entry), entry.gate, first=True)
    return decide(gate.champion_evidence(candidate, champion, entry, "champion version 1"), entry.gate, first=False)


def test_a_first_version_is_measured_again_on_its_held_out_rows(tmp_path):
    made = exhibits.craft(tmp_path / "a", exhibits.rows())
    decision = judged(made)
    assert decision.verdict == "PROMOTE"
    assert decision.numbers["candidate"] == pytest.approx(made.form.manifest["metrics"]["mae"])
    assert decision.numbers["baseline"] == 6.0
    assert decision.numbers["labelled"] == 80


def test_candidate_and_champion_are_measured_on_the_same_rows(tmp_path):
    columns = exhibits.rows()
    good = exhibits.craft(tmp_path / "good", columns, slope=3.0)
    poor = exhibits.craft(tmp_path / "poor", columns, slope=2.5)
    assert judged(good, poor).verdict == "PROMOTE"
    assert judged(poor, good).verdict == "REJECT"
    tie = judged(good, good)
    assert (tie.verdict, tie.numbers["candidate"]) == ("HOLD", tie.numbers["champion"])


def test_a_holdout_that_leaked_into_training_is_refused_with_the_reason(tmp_path):
    """Promise 22."""
    columns = exhibits.rows()
    held = np.arange(400) >= 320
    leaking = exhibits.craft(tmp_path / "a", columns, held=held, trained=~held | (np.arange(400) < 330))
    good = exhibits.craft(tmp_path / "b", columns, slope=2.0)
    for decision in (judged(leaking), judged(leaking, good)):
        assert decision.verdict == "REJECT"
        assert "the holdout leaked into training: 10 of 80 held-out rows (12.5%)" in decision.reasons[0]


def test_rows_that_the_champion_was_trained_on_are_left_out_for_both(tmp_path):
    columns = exhibits.rows()
    index = np.arange(400)
    champion = exhibits.craft(tmp_path / "old", columns, slope=2.9, trained=index < 340, held=index >= 380)
    candidate = exhibits.craft(tmp_path / "new", columns, held=index >= 320)
    decision = judged(candidate, champion)
    assert (decision.numbers["labelled"], decision.numbers["seen_by_champion"]) == (60, 20)
    assert decision.verdict == "PROMOTE"
    all_seen = exhibits.craft(tmp_path / "all", columns, slope=2.9, trained=index < 400, held=index >= 400)
    held_back = judged(candidate, all_seen)
    assert held_back.verdict == "HOLD"
    assert "0 labelled held-out rows < 50" in held_back.reasons[0]


def test_held_out_rows_without_a_label_do_not_count(tmp_path):
    made = exhibits.craft(tmp_path / "a", exhibits.rows())
    table = exhibits.to_arrow(exhibits.rows()).slice(320)
    target = table["y"].to_pylist()
    table = table.set_column(3, "y", [[None] * 60 + target[60:]])
    identity = np.load(made.evidence / "holdout_rows.npy")
    exhibits.evidence(made.evidence, table, identity, np.load(made.evidence / "training_rows.npy"))
    decision = judged(made)
    assert decision.verdict == "HOLD"
    assert "20 labelled held-out rows < 50 (coverage 25% of 80)" in decision.reasons[0]


def test_a_champion_that_needs_a_column_which_is_gone_cannot_be_compared(tmp_path):
    columns = exhibits.rows()
    champion = exhibits.craft(tmp_path / "old", columns, features=Features(columns=("x", "zone"), one_hot=("zone",)))
    candidate = exhibits.craft(tmp_path / "new", columns)
    table = exhibits.to_arrow(columns).slice(320).drop_columns(["zone"])
    rows = [np.load(candidate.evidence / f"{name}_rows.npy") for name in ("holdout", "training")]
    exhibits.evidence(candidate.evidence, table, *rows)
    decision = judged(candidate, champion)
    assert decision.verdict == "HOLD"
    assert (
        "champion version 1: cannot answer the held-out rows: column 'zone' is not in the data" in decision.reasons[0]
    )


# ------------------------------------------------------------------------------------ the whole, with MLflow


@pytest.fixture
def place(tmp_path, mlflow_url, database_url):
    """A model of its own in MLflow, a fresh database, and what the gate needs to know of them."""

    class Place:
        model = f"m{uuid.uuid4().hex[:8]}"
        entry = exhibits.entry()
        engine = database.connect(database_url)
        columns = exhibits.rows()

        def register(self, name, **options):
            where = {"mlflow_url": mlflow_url, "database_url": database_url}
            made = exhibits.register(tmp_path / name, self.columns, model=self.model, **where, **options)
            return made.version

        def judge(self, version, url=mlflow_url, again=None):
            where = {"database_url": database_url, "mlflow_url": url}
            return gate.judge(self.model, version, entry=self.entry, **where, again=again)

        def promote(self, verdict):
            url = str(tmp_path / "data" / "served" / verdict.content_hash)
            where = {"mlflow_url": mlflow_url, "database_url": database_url}
            form = tracking.download(self.model, verdict.version, tmp_path / uuid.uuid4().hex, **where)
            storage.upload(form.directory, url)
            return ledger.promote(
                self.engine, model=self.model, to_version=verdict.version, expected_from=verdict.champion_version,
                content_hash=verdict.content_hash, url=url, bento="b", verdict_id=verdict.id, actor="t", reason="r",
            )  # fmt: skip

        def stored(self):
            with self.engine.connect() as connection:
                return connection.execute(sa.select(database.verdicts).order_by(database.verdicts.c.id)).all()

    place = Place()
    yield place
    place.engine.dispose()


@pytest.mark.slow
def test_from_a_first_model_to_its_successor(place, mlflow_url):
    first = place.judge(place.register("first", slope=2.8))
    assert (first.verdict, first.champion_version) == ("PROMOTE", None)
    assert place.judge(first.version) == first, "judged again: the same verdict, not another row"
    assert len(place.stored()) == 1
    place.promote(first)
    assert place.judge(first.version) == first, "the champion itself keeps the verdict that made it so"

    worse = place.judge(place.register("worse", slope=2.0))
    assert (worse.verdict, worse.champion_version) == ("REJECT", first.version)
    tags = tracking.version_info(place.model, worse.version, mlflow_url=mlflow_url).tags
    assert (tags["mlops.verdict"], tags["mlops.verdict_summary"]) == ("REJECT", "; ".join(worse.reasons))
    better = place.judge(place.register("better", slope=3.0))
    assert (better.verdict, better.champion_version) == ("PROMOTE", first.version)
    assert better.numbers["champion"] > better.numbers["candidate"]

    aliases = ledger.project_aliases(place.engine, place.model, mlflow_url=mlflow_url)
    assert aliases == {"champion": first.version, "challenger": better.version}
    place.promote(better)
    assert tracking.aliases(place.model, mlflow_url=mlflow_url)["champion"] == first.version, "a promoter died here"
    for _ in range(2):  # promise 27: the projection converges, and may be repeated
        ledger.project_aliases(place.engine, place.model, mlflow_url=mlflow_url)
        assert tracking.aliases(place.model, mlflow_url=mlflow_url) == {"champion": better.version}

    ledger.rollback(place.engine, place.model, actor="ann", reason="a mistake")
    ledger.project_aliases(place.engine, place.model, mlflow_url=mlflow_url)
    assert tracking.aliases(place.model, mlflow_url=mlflow_url) == {"champion": first.version}
    held = place.judge(better.version)
    assert held.verdict == "HOLD", "a cleared run does not overrule a person"
    assert "was rolled back" in held.reasons[0]
    later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    again = place.judge(better.version, again=Decision("no mistake", later))
    assert again.verdict == "PROMOTE"
    assert again.id != better.id, "a spent verdict is not given again"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "corrupt", "gone"])
def test_a_champion_whose_files_are_missing_or_corrupt_is_not_replaced(place, damage):
    """Promise 22: refused with the reason; the champion stays."""
    first = place.judge(place.register("first", slope=2.8))
    entry = place.promote(first)
    if damage == "gone":
        storage.delete(entry.url)
    elif damage == "missing":
        storage.delete(f"{entry.url}/model.onnx")
    else:
        storage.write_bytes(f"{entry.url}/model.onnx", b"something else")
    verdict = place.judge(place.register("better", slope=3.0))
    assert verdict.verdict == "HOLD"
    assert f"champion version {first.version} cannot be compared with, it stays" in verdict.reasons[0]
    assert ledger.champion(place.engine, place.model).version == first.version
    with pytest.raises(ledger.NotProven):
        place.promote(verdict)


@pytest.mark.slow
def test_a_version_that_is_not_ready_or_does_not_exist_is_not_judged(place, mlflow_url):
    """Promises 21 and 22."""
    import mlflow

    with pytest.raises(gate.NotReady, match=r"version 7 cannot be judged: .* has no version 7"):
        place.judge(7)
    version = place.register("first")
    client = mlflow.MlflowClient(mlflow_url, mlflow_url)
    client.set_model_version_tag(place.model, str(version), tracking.READY, "false")
    with pytest.raises(gate.NotReady, match="its files were never checked"):
        place.judge(version)
    client.set_model_version_tag(place.model, str(version), tracking.READY, "true")
    own = client.get_model_version(place.model, str(version))
    forged = client.create_model_version(
        place.model, own.source, run_id=own.run_id, tags=own.tags, model_id=own.source.removeprefix("models:/")
    )
    with pytest.raises(gate.NotReady, match="was not registered by this platform"):
        place.judge(int(forged.version))
    client.set_model_version_tag(place.model, str(version), tracking.CONTENT_HASH, "0" * 64)
    with pytest.raises(gate.NotReady, match="has other content in MLflow"):
        place.judge(version)
    assert place.stored() == []


def test_a_gate_that_cannot_reach_mlflow_is_red_and_not_passed(database_url):
    """Invariant I6."""
    where = {"database_url": database_url, "mlflow_url": "http://127.0.0.1:9"}
    with pytest.raises(ConnectionError, match="does not answer"):
        gate.judge("m", 1, entry=exhibits.entry(), **where)


def test_evidence_is_plain_and_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        evidence(1.0, 2.0).candidate = 3.0
