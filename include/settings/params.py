"""params.yaml as a whole."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError, model_validator

from include.settings.diagnostics import Lines, ParamsError, UniqueKeyLoader, described
from include.settings.models import Model
from include.settings.serving import Service
from include.settings.sources import Source
from include.settings.types import Name, Strict
from include.text import did_you_mean


class Lifetimes(Strict):
    """For how long what only grows is kept; what belongs to a model is declared with it."""

    alert_days: int = Field(default=90, ge=1, le=3650)
    """Alerts that were acknowledged; one that nobody has acknowledged stays."""
    run_days: int = Field(default=90, ge=7, le=3650)
    """What runs in Airflow leave: their logs and their scratch."""


class Params(Strict):
    """All of params.yaml."""

    sources: dict[Name, Source] = Field(min_length=1)
    models: dict[Name, Model] = Field(default_factory=dict)
    service: Service = Service()
    keep: Lifetimes = Lifetimes()

    @model_validator(mode="after")
    def _models_name_sources(self) -> Params:
        for name, model in self.models.items():
            if model.source not in self.sources:
                hint = did_you_mean(model.source, self.sources)
                raise ValueError(f"models.{name}.source: no source is named {model.source!r}{hint}")
        defaults = [name for name, model in self.models.items() if model.serving.default]
        if len(defaults) > 1:
            raise ValueError(
                f"models.{defaults[1]}.serving.default: only one model can be the default; {defaults[0]!r} is already"
            )
        return self

    def time_column(self, model: str) -> str | None:
        """The column that dates the rows of `model`, if any."""
        entry = self.models[model]
        return entry.time_column or self.sources[entry.source].time_column

    @property
    def default_model(self) -> str | None:
        """The model that `/predict` means: the declared one, else the first."""
        declared = [name for name, model in self.models.items() if model.serving.default]
        return declared[0] if declared else next(iter(self.models), None)


LARGEST_PARAMS = 1024 * 1024
"""Bytes; an entry of a model has some hundred."""


def load_params(path: Path | str) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: one line per mistake: `params.yaml:12: models.x.tuning.trails: unknown key; did you mean 'trials'?`
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # never more than that of whatever it is
            content = file.read(LARGEST_PARAMS + 1)
        if len(content) > LARGEST_PARAMS:
            raise ParamsError(f"{path}: is larger than {LARGEST_PARAMS // 1024} kB, so it is no params.yaml")
        text = content.decode("utf-8")
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); name another file with MLOPS_PARAMS") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return parse_params(text, name=path.name)


def parse_params(text: str, name: str = "params.yaml") -> Params:
    """Check the text of a params.yaml; see `load_params`."""
    try:
        data = yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506  (a SafeLoader that also refuses duplicate keys)
    except yaml.constructor.ConstructorError as error:  # the YAML is whole: what is wrong belongs to one entry
        mark = error.problem_mark
        line, key = (mark.line + 1, Lines(text).at(mark.line + 1)) if mark else (1, ())
        raise ParamsError(f"{name}:{line}: {'.'.join(key) or '(top)'}: {error.problem}", [key]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ParamsError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{name}:1: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ParamsError(f"{name}:1: expected a mapping with `sources` and `models`")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        found = described(error, data, Lines(text), Params)
        lines = [f"{name}:{line}: {'.'.join(path) or '(top)'}: {message}" for line, path, message in found]
        raise ParamsError("\n".join(lines), [path for _, path, _ in found]) from error
