"""Rows of the prediction log and labels, as the service writes them, and how they are joined."""

from __future__ import annotations

import datetime as dt
import uuid

import sqlalchemy as sa

from include import database
from include.monitoring import predictions

NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
NOW = NOON + dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)


def answered(engine, at=NOON, model="trips", entity=None, arm="champion", prediction_id=None, **more):
    """A row of the log; returns its id."""
    row = {
        "id": prediction_id or uuid.uuid4().hex,
        "model": model,
        "version": 3,
        "arm": arm,
        "at": at,
        "entity": entity,
    }
    row |= {"inputs": {"distance": 1.5}, "output": {"prediction": 12.5}, "prediction": 12.5} | more
    with engine.begin() as connection:
        connection.execute(sa.text("select make_prediction_partition(:day)"), {"day": at.date()})
        connection.execute(sa.insert(database.predictions).values(**row))
    return row["id"]


def told(engine, label, *, prediction_id=None, entity=None, at=NOON + HOUR, received=NOON + 2 * HOUR, model="trips"):
    row = {"model": model, "prediction_id": prediction_id, "entity": entity, "label": label, "at": at}
    with engine.begin() as connection:
        connection.execute(sa.insert(database.labels).values(**row, received_at=received))


def joined(engine, model="trips", now=NOW, **window):
    window = {"since": NOON - 24 * HOUR, "until": NOON + 24 * HOUR} | window
    with engine.connect() as connection:
        rows = connection.execute(predictions.labelled(model, **window, now=now)).mappings().all()
    keys = [(row["id"].replace("-", ""), row["arm"]) for row in rows]
    assert len(keys) == len(set(keys)), "a prediction came twice"
    return {key if key[1] == "shadow" else key[0]: row["label"] for key, row in zip(keys, rows, strict=True)}
