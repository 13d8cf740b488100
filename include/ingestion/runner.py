"""Great Expectations, set up once for many partitions; the only file that reaches into it.

Pinned as great-expectations 1.24.1, with two of its private names, each put back afterwards:

    Expectation.configuration                 built anew some 60 times per run; here once per object. Half of the time
                                              on a small partition goes there: 30 expectations take 45 ms, not 88
    pandas_execution_engine.HASH_THRESHOLD    every frame below it is hashed, for a mark that nothing reads; here none

`test_keeping_configurations_changes_no_result` and the speed of benchmarks/validation.py show when they change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from include.ingestion import suites
from include.ingestion.expectations import Rule

_MOST_CONFIGURATIONS = 5000


class NotValidated(RuntimeError):
    """Great Expectations could not judge a partition: it counts as not validated, never as passed."""


class Runner:
    """Runs rules of a suite on frames; made by `started`."""

    def __init__(self) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars={"globally": False},
        )
        context = gx.get_context(mode="ephemeral", project_config=config)
        asset = context.data_sources.add_pandas("platform").add_dataframe_asset("partition")
        self._batches = asset.add_batch_definition_whole_dataframe("whole")
        self._suite = gx.ExpectationSuite

    def __call__(
        self, frame: Any, suite: suites.Suite, rules: Sequence[Rule], given: Mapping[str, Any], result_format: str
    ) -> dict[str, Any]:
        """Results by rule id.

        Raises:
            NotValidated: Great Expectations fell over, or has no result for a rule.
        """
        chosen = self._suite(name=suite.name)
        chosen.expectations = [suite.expectations[rule.id] for rule in rules]
        try:
            batch = self._batches.get_batch({"dataframe": frame})
            outcome = batch.validate(chosen, result_format=result_format, expectation_parameters=dict(given))
        except Exception as error:
            message = " ".join(str(error).split())[:400]
            raise NotValidated(f"Great Expectations failed: {type(error).__name__}: {message}") from error
        found = {result.expectation_config.id: result for result in outcome.results}
        if missing := [rule for rule in rules if rule.id not in found]:
            raise NotValidated(f"Great Expectations gave no result for {missing[0].type} of {missing[0].columns}")
        return found


@contextlib.contextmanager
def started() -> Iterator[Runner]:
    """A runner, with each expectation's configuration cached and no frame hashed."""
    from great_expectations.execution_engine import pandas_execution_engine
    from great_expectations.expectations.expectation import Expectation

    original, hashed = Expectation.configuration, pandas_execution_engine.HASH_THRESHOLD
    cached: dict[int, tuple[Any, Any]] = {}

    def configuration(self: Any) -> Any:
        seen = cached.get(id(self))
        if seen is None or seen[0] is not self:
            if len(cached) > _MOST_CONFIGURATIONS:
                cached.clear()
            seen = cached[id(self)] = (self, original.fget(self))
        return seen[1]

    Expectation.configuration = property(configuration)
    pandas_execution_engine.HASH_THRESHOLD = 0
    try:
        yield Runner()
    finally:
        Expectation.configuration = original
        pandas_execution_engine.HASH_THRESHOLD = hashed


def raised(result: Any) -> str | None:
    """The message of the exception that kept an expectation from being evaluated, if any."""
    info = result.exception_info or {}
    for part in (info, *(value for value in info.values() if isinstance(value, dict))):
        if part.get("raised_exception"):
            return str(part.get("exception_message"))
    return None
