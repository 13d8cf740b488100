"""A part of params.yaml that is wrong never replaces one that was right."""

from __future__ import annotations

from pathlib import Path

import pytest

from include import configuration, settings, storage

GOOD = """sources:
  trips: {type: sample, dataset: taxi_trips}
  cells: {type: sample, dataset: breast_cancer}
models:
  first:
    source: cells
    target: diagnosis  # malignant or not
    task: binary
    tuning:
      trials: 3

  # a word about the second
  second:
    source: cells
    target: diagnosis
    task: binary
  third: {source: trips, target: fare_amount, task: regression}
service:
  workers: 2
"""
MISSPELT = GOOD.replace("trials: 3", "trails: 5").replace("workers: 2", "workers: 3")


def test_a_mistake_concerns_its_model_and_what_else_was_edited_takes_effect() -> None:
    made = configuration.in_force(MISSPELT, GOOD)
    assert made.params.models["first"].tuning.trials == 3
    assert made.params.service.workers == 3
    assert made.mistakes == (
        "params.yaml:10: models.first.tuning.trails: unknown key; did you mean 'trials'?;"
        " models.first is in force as it last was right",
    )


def test_a_model_that_was_never_right_is_left_out_and_the_others_are_there() -> None:
    made = configuration.in_force(MISSPELT, None)
    assert sorted(made.params.models) == ["second", "third"]
    assert made.mistakes[0].endswith("models.first is left out")


def test_what_was_right_keeps_its_lines_so_that_later_messages_name_the_right_one() -> None:
    made = configuration.in_force(MISSPELT, GOOD)
    new, old = settings.Lines(made.text), settings.Lines(MISSPELT)
    for key in (("models", "first"), ("models", "second"), ("models", "second", "target"), ("service", "workers")):
        assert new.of(*key) == old.of(*key)


@pytest.mark.parametrize(
    ("edit", "blamed"),
    [
        (("target: diagnosis\n    task: binary\n  third", "target: diagnosis\n  third"), "models.second.task"),
        (("  third: {source", "  third: {sorce"), "models.third.sorce"),
        (("third: {source: trips", "third: {source: trps"), "models.third.source"),
        (("task: binary\n  third", "task: binary\n    task: binary\n  third"), "models.second"),
        (("third:", "second:"), "models.second"),
        (("{type: sample, dataset: taxi_trips}", "{type: kafka, topic: trips}"), "sources.trips.type"),
        (
            ("{type: sample, dataset: taxi_trips}", "{type: sample, dataset: taxi_trips, start: 2026-02-30}"),
            "sources.trips.start",
        ),
        (("third: {", "third: {estimators: {boost: {}}, "), "models.third.estimators.boost"),
        (("third: {", "third: {metric: auc, "), "models.third.metric"),
        (("third: {", "third: {tuning: !!python/name:os.system '', "), "models.third"),
        (("third: {source: trips, target: fare_amount, task: regression}", "third:"), "models.third"),
        (("third: {source: trips, target: fare_amount, task: regression}", "third: [1, 2]"), "models.third"),
        (("  workers: 2", "  workers: two"), "service.workers"),
        (("  workers: 2", "  wokers: 2"), "service.wokers"),
    ],
)
def test_each_entry_stays_as_it_was_and_the_mistake_is_named(edit: tuple[str, str], blamed: str) -> None:
    before = settings.parse_params(GOOD)
    made = configuration.in_force(GOOD.replace(*edit).replace("trials: 3", "trials: 4"), GOOD)
    assert any(f": {blamed}: " in line or f": {blamed}." in line for line in made.mistakes)
    assert made.params.models["first"].tuning.trials == 4
    for name in ("second", "third"):
        assert made.params.models.get(name, before.models[name]) == before.models[name]
    assert made.params.sources == before.sources
    assert made.params.service == before.service


def test_a_source_that_was_renamed_under_its_models_stays_until_they_name_the_new_one() -> None:
    made = configuration.in_force(GOOD.replace("  trips:", "  rides:"), GOOD)
    assert set(made.params.sources) == {"trips", "rides", "cells"}
    assert made.params.models == settings.parse_params(GOOD).models
    assert "models.third.source: no source is named 'trips'" in made.mistakes[0]


def test_two_models_that_both_want_to_be_the_default_are_one_mistake() -> None:
    both = GOOD.replace("    task: binary", "    task: binary\n    serving: {default: true}")
    made = configuration.in_force(both, None)
    assert [name for name, model in made.params.models.items() if model.serving.default] == ["first"]
    assert len(made.mistakes) == 1


@pytest.mark.parametrize(
    "text",
    ["", "   \n", "sources:\n  trips: {type: sam", GOOD.replace("models:", "modles:"), "- a\n- b\n", "a: b: c\n",
     GOOD.replace("    source: cells\n", "   source: cells\n"), "models: {}\n", "\t"],
)  # fmt: skip
def test_a_file_of_which_nothing_can_be_made_changes_nothing(text: str) -> None:
    made = configuration.in_force(text, GOOD)
    assert made.text == GOOD
    assert made.mistakes
    assert all(line.endswith("params.yaml is in force as it last was right") for line in made.mistakes)
    with pytest.raises(settings.ParamsError):
        configuration.in_force(text, None)


def test_an_entry_that_is_taken_out_goes_and_is_no_mistake() -> None:
    made = configuration.in_force(
        GOOD.replace("  third: {source: trips, target: fare_amount, task: regression}\n", ""), GOOD
    )
    assert "third" not in made.params.models
    assert made.mistakes == ()


def test_what_an_older_program_took_and_this_one_refuses_is_left_out() -> None:
    older = GOOD.replace("{type: sample, dataset: taxi_trips}", "{type: kafka, topic: trips}")
    made = configuration.in_force(older, older)
    assert sorted(made.params.models) == ["first", "second"]
    assert any("sources.trips" in line for line in made.mistakes)


def test_an_entry_with_an_anchor_that_others_refer_to_is_mended_too() -> None:
    shared = GOOD.replace("      trials: 3", "      &few trials: 3").replace("trials: 3", "trials: &n 3")
    shared = shared.replace("task: binary\n  third", "task: binary\n    tuning: {trials: *n}\n  third").replace(
        "&few ", ""
    )
    made = configuration.in_force(shared.replace("target: diagnosis  #", "tarket: diagnosis  #"), GOOD)
    assert made.params.models["second"].tuning.trials == 3
    assert made.params.models["first"].target == "diagnosis"


def test_a_reader_that_must_go_on_reads_what_is_in_force(tmp_path: Path) -> None:
    data, path = str(tmp_path / "data"), tmp_path / "params.yaml"
    path.write_text(MISSPELT)
    assert "first" not in configuration.load(path, data).params.models
    storage.write_bytes(storage.join(configuration.version_url(data, "v"), configuration.PARAMS), GOOD.encode())
    configuration.write_record(data, configuration.Record("v", "digest", ("one",)))
    assert configuration.record(data) == configuration.Record("v", "digest", ("one",))
    assert configuration.load(path, data).params.models["first"].tuning.trials == 3
    path.write_bytes(b"\xff\xfe")
    assert configuration.load(path, data).mistakes == (
        "params.yaml: cannot be read (it is not UTF-8 text, at byte 0); what was in force before stays",
    )
    path.unlink()
    assert "No such file" in configuration.load(path, data).mistakes[0]


@pytest.mark.parametrize("wrong", ["{alert_days: 0}", "{alert_day: 30}", "[30]", "{run_days: 1}"])
def test_a_mistake_in_how_long_things_are_kept_concerns_nothing_else(wrong: str) -> None:
    """What was to be kept for a year is not deleted because of a misspelt line."""
    text = "sources:\n  cells: {type: sample, dataset: breast_cancer}\nkeep: {alert_days: 365}\n"
    edited = text.replace("{alert_days: 365}", wrong).replace("cells", "tissues")
    found = configuration.in_force(edited, text)
    assert found.params.keep.alert_days == 365
    assert list(found.params.sources) == ["tissues"]
    assert found.mistakes[0].endswith("keep is in force as it last was right")
    never = configuration.in_force(edited, None)
    assert never.params.keep.alert_days == 90
    assert never.mistakes[0].endswith("keep has its defaults")
