"""The study-quality benchmark runs on scikit-learn's own tables: split as the platform splits, tuned and refitted."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import study_quality


@pytest.mark.parametrize(
    ("name", "rows", "columns", "classes"), [("breast_cancer", 569, 30, 2), ("digits", 1797, 64, 10)]
)
def test_a_bundled_table_is_divided_with_every_class_on_each_side(
    name: str, rows: int, columns: int, classes: int
) -> None:
    parts = study_quality.divided(study_quality.TABLES[name](), 15_000, seed=0)
    assert (len(parts.y), len(parts.columns)) == (rows, columns)
    assert parts.classes == list(range(classes))
    for part in ("train", "validation", "test"):
        assert set(parts.y[parts.part == part]) == set(map(float, range(classes)))


def test_a_study_of_a_bundled_table_gives_a_champion_by_the_platforms_own_code() -> None:
    table = study_quality.TABLES["breast_cancer"]()
    parts = study_quality.divided(table, 300, seed=0)
    found = study_quality.study(table, parts, trials=2, pruning=True)
    assert found.complete == sum(found.by_estimator.values()) == 2
    assert set(found.by_estimator) <= {"linear", "random_forest", "xgboost"}
    held = parts.y[parts.part == "test"]
    share = held.mean()
    guess = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert 0 < found.error < guess / 2  # of the log loss of the mere share of the classes
