"""GET /models/{model}/schema: a JSON Schema that takes what the service takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from include.serving.http.application import Application
from tests.include.serving.crafted import ROWS
from tests.include.serving.http.test_application import KEY, application_of, call

PATH = "/models/trips/schema"
DESCRIBED = {
    "trip_distance": {"minimum": 0.0, "maximum": 20.0, "out_of_range": "error", "unit": "miles"},
    "passenger_count": {"minimum": 1, "maximum": 4, "out_of_range": "warn"},
    "vendor": {"categories": ["a", "b", "c"], "unknown_category": "error"},
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return application_of(tmp_path_factory.mktemp("schema"), unknown="error", described=DESCRIBED)


@pytest.fixture(scope="module")
def schema(app: Application) -> dict[str, Any]:
    answer = call(app, "GET", PATH)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/schema+json"
    document: dict[str, Any] = answer.json()
    jsonschema.Draft202012Validator.check_schema(document)
    return document


def takes(app: Application, row: dict[str, Any]) -> bool:
    """Whether a row is understood; the crafted model has no finite answer where `night` is missing."""
    answer = call(app, "POST", "/predict", json=row)
    return answer.status_code == 200 or answer.json()["error"]["code"] == "not_computable"


def test_it_names_types_required_fields_and_what_training_saw(schema: dict[str, Any]) -> None:
    assert schema["required"] == ["trip_distance", "passenger_count", "vendor", "pickup"]
    fields = schema["properties"]
    assert {name: field["type"] for name, field in fields.items()} == {
        "trip_distance": "number",
        "passenger_count": "integer",
        "vendor": "string",
        "pickup": "string",
        "night": ["boolean", "null"],
    }
    assert (fields["trip_distance"]["minimum"], fields["trip_distance"]["maximum"]) == (0.0, 20.0)
    assert fields["trip_distance"]["description"] == "In miles. Seen in training: 0.0 to 20.0."
    assert "minimum" not in fields["passenger_count"]
    assert fields["passenger_count"]["description"].startswith("Seen in training: 1 to 4; beyond it")
    assert fields["vendor"]["enum"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"night": None},
        {"trip_distance": 25.0},
        {"trip_distance": None},
        {"trip_distance": "2"},
        {"passenger_count": 9},
        {"passenger_count": 1.5},
        {"vendor": "x"},
        {"vendor": 1},
        {"tip": 1},
    ],
    ids=str,
)
def test_it_takes_what_the_service_takes(app: Application, schema: dict[str, Any], change: dict[str, Any]) -> None:
    row = ROWS[1] | change
    valid = jsonschema.Draft202012Validator(schema).is_valid(row)
    assert valid == takes(app, row)


def test_a_required_field_is_required_by_both(app: Application, schema: dict[str, Any]) -> None:
    for name in ROWS[0]:
        row = {key: value for key, value in ROWS[0].items() if key != name}
        valid = jsonschema.Draft202012Validator(schema).is_valid(row)
        assert valid == takes(app, row) == (name == "night")


def test_its_example_is_a_row_that_is_answered(app: Application, schema: dict[str, Any]) -> None:
    [example] = schema["examples"]
    assert jsonschema.Draft202012Validator(schema).is_valid(example)
    assert call(app, "POST", "/predict", json=example).status_code == 200


def test_a_client_that_has_it_gets_304_until_another_version_answers(app: Application, tmp_path: Path) -> None:
    tag = call(app, "GET", PATH).headers["etag"]
    assert tag.startswith('"')
    assert tag.endswith('"')
    for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = call(app, "GET", PATH, headers={**KEY, "If-None-Match": sent})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in answer.headers
        assert "content-type" not in answer.headers
    assert call(app, "GET", PATH, headers={**KEY, "If-None-Match": '"other"'}).status_code == 200
    changed = application_of(tmp_path, unknown="error", described={**DESCRIBED, "vendor": {"categories": ["a", "b"]}})
    answer = call(changed, "GET", PATH, headers={**KEY, "If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag


def test_an_entity_and_fields_to_ignore_are_in_it(tmp_path: Path) -> None:
    app = application_of(tmp_path)
    loaded = app._models.get("trips")
    assert loaded
    loaded.predictor.manifest |= {"entity": "rider", "extra_field": "ignore"}
    document = call(app, "GET", PATH).json()
    assert document["additionalProperties"] is True
    assert "rider" in document["properties"]


def test_a_model_that_is_not_there_has_none(app: Application) -> None:
    answer = call(app, "GET", "/models/fares/schema")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_model")
