from __future__ import annotations

import numpy as np
import pytest

from include.features.columns import from_rows
from include.inference import served_form
from include.inference.predictor import Predictor
from include.monitoring import collection
from tests.include.serving.crafted import ROWS, craft


@pytest.fixture
def crafted(tmp_path):
    return craft(tmp_path / "form", unknown="error")


def many(crafted, vendors):
    rows = [{**ROWS[n % len(ROWS)], "vendor": vendor} for n, vendor in enumerate(vendors)]
    return from_rows(rows, crafted.features.inputs)


def test_the_champions_own_features_come_back_from_its_form(crafted):
    features = collection.feature_set(crafted.form)
    assert features.inputs == crafted.features.inputs
    assert features.spec == crafted.features.spec


def test_a_definition_in_the_form_is_the_code_that_is_run(tmp_path):
    made = craft(tmp_path / "form")
    text = "INPUTS = {'x': 'float'}\n\n\ndef features(columns):\n    return {'twice': columns['x'] * 2}\n"
    (made.form.directory / "definition.py").write_text(text)
    spec = {
        "definition": "d", "inputs": {"x": "float"}, "passed": [], "derived": {}, "date_parts": {}, "declared": {},
        "kinds": {"twice": "number"}, "unknown_category": "other",
    }  # fmt: skip
    form = served_form.seal(made.form.directory, {**made.form.manifest, "features": spec})
    assert collection.feature_set(form).compute({"x": np.array([2.0])})["twice"].tolist() == [4.0]


def test_every_row_is_answered_as_the_service_would(crafted):
    columns = many(crafted, "abcabc")
    predictor = Predictor.load(crafted.form)
    assert collection.predict(predictor, columns) == pytest.approx(predictor.predict(columns))


def test_a_row_that_the_champion_refuses_does_not_hide_the_others(crafted):
    columns = many(crafted, ["a"] * 37 + ["new"] + ["b"] * 20 + ["new"])
    answers = collection.predict(Predictor.load(crafted.form), columns)
    assert np.flatnonzero(np.isnan(answers)).tolist() == [37, 58]


def test_probabilities_have_a_column_for_each_class(tmp_path):
    made = craft(tmp_path / "form", task="binary")
    answers = collection.predict(Predictor.load(made.form), many(made, "abc"))
    assert answers.shape == (3, 2)
    assert answers.sum(axis=1) == pytest.approx(1)
