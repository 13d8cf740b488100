"""params.yaml and the environment, checked and typed: import them from here.

    params           the whole file: load_params → Params, or ParamsError
    sources · models · serving · search_space     its entries; types, the words that they share
    diagnostics      what is wrong: file, line, key, what was expected, and the nearest known key
    environment      where the platform runs: MLOPS_* variables

No side effects; of ours it imports the layout of MLOPS_HOME and the rollout strategies, which have keys of their own.
"""

from include.home import ROOT
from include.settings.diagnostics import Lines, ParamsError
from include.settings.environment import Environment, cores, environment
from include.settings.models import (
    Drift,
    Features,
    Gate,
    Model,
    Monitoring,
    Split,
    drift_measure_names,
    transform_names,
)
from include.settings.params import LARGEST_PARAMS, Lifetimes, Params, load_params, parse_params
from include.settings.search_space import DEFAULT_ESTIMATORS, Choices, Dimension, Range, Tuning, estimator_names
from include.settings.serving import FieldPolicy, Logged, Missing, OutOfRange, Rollout, Service, Serving
from include.settings.sources import FilesSource, Incident, SampleSource, Source, SourceBase
from include.settings.types import DATE_FORMATS, DEFAULT_METRIC, METRICS, TASK_METRICS, ColumnType, Name, Task

__all__ = [
    "DATE_FORMATS",
    "DEFAULT_ESTIMATORS",
    "DEFAULT_METRIC",
    "LARGEST_PARAMS",
    "METRICS",
    "ROOT",
    "TASK_METRICS",
    "Choices",
    "ColumnType",
    "Dimension",
    "Drift",
    "Environment",
    "Features",
    "FieldPolicy",
    "FilesSource",
    "Gate",
    "Incident",
    "Lifetimes",
    "Lines",
    "Logged",
    "Missing",
    "Model",
    "Monitoring",
    "Name",
    "OutOfRange",
    "Params",
    "ParamsError",
    "Range",
    "Rollout",
    "SampleSource",
    "Service",
    "Serving",
    "Source",
    "SourceBase",
    "Split",
    "Task",
    "Tuning",
    "cores",
    "drift_measure_names",
    "environment",
    "estimator_names",
    "load_params",
    "parse_params",
    "transform_names",
]
