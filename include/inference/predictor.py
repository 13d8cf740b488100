"""One served form, loaded: columns in, predictions out, with NumPy and onnxruntime on one thread.

Training proves its equality check with this very code, and the service answers with it. Nothing is unpickled: the
estimator is ONNX, preprocessing is JSON, and a definition is compiled from the source whose hash the manifest holds.
Trees are there a second time as XGBoost keeps them: they answer many rows in half the time, and explain. A form from
before, or a machine without XGBoost's library, answers all the same.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
import numpy as np

from include.features.feature_set import FeatureSet
from include.inference import runtimes
from include.inference.errors import Refused
from include.inference.explanation import Explainer, Explanation
from include.inference.schema import Columns, Schema
from include.inference.served_form import BadServedForm, ServedForm

MODEL, PREPROCESSING, DEFINITION, GOLDEN = "model.onnx", "preprocessing.json", "definition.py", "golden.json"
BOOSTER, EXPLANATION = "booster.ubj", "explanation.json"
EXPLAIN_SECONDS = 10.0
"""For one call; what the first row takes says how many rows that is."""

log = logging.getLogger("mlops.serving")


class GoldenMismatch(RuntimeError):
    """The model does not give the answers that were packed with it, or not in time."""


class NotComputable(ValueError):
    """The model has no finite answer for a row; `.row` is its number."""

    def __init__(self, row: int) -> None:
        super().__init__(f"the model has no finite answer for row {row}")
        self.row = row


class Predictor:
    """A served form in memory; safe to use from several threads.

    Attributes:
        schema: what it takes.
        classes: of a classification.
        manifest: the form's.
        golden: rows with their answers.
        content_hash: the form's.
        crossover: the number of rows from which on XGBoost's library answers; None: onnxruntime answers all.
        without_booster: why that library is not used at all, by a form that has trees for it.
        nbytes: an estimate of the memory that it holds.
    """

    def __init__(
        self,
        form: ServedForm,
        features: FeatureSet,
        fitted: dict[str, Any],
        onnx: runtimes.Onnx,
        golden: dict[str, Any],
    ) -> None:
        self.manifest = form.manifest
        self.content_hash = form.content_hash
        self.schema = Schema.of(form.manifest)
        self.classes: list[Any] | None = form.manifest.get("classes")
        self.golden = golden
        self.crossover: int | None = None
        self.without_booster: str | None = None
        self.nbytes = estimated_bytes(form)
        self._features, self._fitted = features, fitted
        self._unknown = form.manifest.get("unknown_category", "other")
        self._onnx = onnx
        self._booster: runtimes.Booster | None = None
        self._explainer: Explainer | None = None

    @classmethod
    def load(cls, form: ServedForm) -> Predictor:
        """Load a verified served form.

        Raises:
            BadServedForm: naming the file that cannot be used.
        """
        try:
            definition = (form.directory / DEFINITION).read_text() if (form.directory / DEFINITION).exists() else None
            features = FeatureSet.from_spec(form.manifest["features"], definition)
            fitted = form.json(PREPROCESSING)
            golden = _checked_golden(form.json(GOLDEN))
            onnx = runtimes.Onnx((form.directory / MODEL).read_bytes())
            predictor = cls(form, features, fitted, onnx, golden)
            if (form.directory / BOOSTER).is_file():
                predictor._take_booster((form.directory / BOOSTER).read_bytes())
            if (form.directory / EXPLANATION).is_file():
                predictor._take_explanation(form.json(EXPLANATION))
        except Exception as error:  # whatever a foreign file provokes: it is refused, and the caller keeps what it has
            raise BadServedForm(f"{form.directory}: cannot be loaded ({type(error).__name__}: {error})") from error
        return predictor

    def _take_booster(self, model: bytes) -> None:
        """Answer many rows by the second kernel, if it gives the golden answers."""
        try:
            booster = runtimes.Booster(model)
            X = self.matrix(self.schema.unlimited(_encode({"rows": self.golden["rows"]})))
            compare(self._answer(booster.predict(X)), self.golden)
            self.crossover = runtimes.crossover(self._onnx.predict, booster.predict, X)
            self._booster = booster
        except Exception as error:  # noqa: BLE001  whatever it is, onnxruntime answers; that is slower, and is said
            self.without_booster = " ".join(str(error).split()) or type(error).__name__
            fields = {"model": self.manifest.get("model"), "reason": self.without_booster}
            log.warning("kernel not used", extra={"fields": fields})

    def _take_explanation(self, document: dict[str, Any]) -> None:
        if document["method"] == "trees" and self._booster is None:
            return
        self._explainer = Explainer(
            document,
            columns=self._features.names(self._fitted),
            origins=self._features.origins(self._fitted),
            classes=self.classes,
            trees=self._booster.contributions if self._booster else None,
        )

    # ------------------------------------------------------------------------------------------------ answering

    def predict(self, columns: Columns) -> np.ndarray:
        """Raw input columns → `(n,)` for regression, `(n, classes)` probabilities for classification.

        Raises:
            NotComputable: the answer for a row is not a finite number.
        """
        matrix = self.matrix(columns)
        if self.crossover is not None and self._booster is not None and len(matrix) >= self.crossover:
            return self._answer(self._booster.predict(matrix))
        return self._answer(self._onnx.predict(matrix))

    def predict_by_each(self, columns: Columns) -> dict[str, np.ndarray]:
        """As `predict`, by each kernel that it has: for those who compare them."""
        matrix = self.matrix(columns)
        answers = {"onnxruntime": self._answer(self._onnx.predict(matrix))}
        if self._booster is not None:
            answers["XGBoost's library"] = self._answer(self._booster.predict(matrix))
        return answers

    def matrix(self, columns: Columns) -> np.ndarray:
        """What the kernels take, (n, k): trees compare in 32 bits, as they did in training."""
        with np.errstate(all="ignore"):
            computed = self._features.compute(columns)
            matrix = self._features.transform(self._fitted, computed, unknown=self._unknown)
            return np.ascontiguousarray(matrix, dtype=self._onnx.dtype)

    def _answer(self, found: np.ndarray) -> np.ndarray:
        rows = len(found)
        answer: np.ndarray
        if self.classes is None:
            answer = found.astype(np.float64).reshape(rows)
        else:
            if found.shape[1] == 1:  # of two classes, XGBoost tells the second
                found = np.concatenate([1 - found, found], axis=1)
            answer = found.astype(np.float64).reshape(rows, len(self.classes))
        finite = np.isfinite(answer)
        if not finite.all():
            raise NotComputable(int(np.argwhere(~finite)[0][0]))
        return answer

    def explain(self, columns: Columns) -> Explanation:
        """What each feature added to each row's prediction; see include/inference/explanation.py.

        Raises:
            Refused: this version cannot be explained, or not so many rows at once.
            NotComputable: a row's contributions are not finite numbers.
        """
        if self._explainer is None:
            raise Refused(422, "not_explainable", f"this version cannot be explained: {self._why_not()}")
        matrix = self.matrix(columns)
        began = time.monotonic()
        first = self._explainer.explain(matrix[:1])
        seconds = time.monotonic() - began
        if len(matrix) > 1 and len(matrix) * seconds > EXPLAIN_SECONDS:
            most = max(1, int(EXPLAIN_SECONDS / seconds))
            message = f"explaining {len(matrix)} rows would take {len(matrix) * seconds:.0f} s; send at most {most}"
            raise Refused(413, "too_many_rows", message)
        explanation = self._explainer.explain(matrix) if len(matrix) > 1 else first
        finite = np.isfinite(explanation.by_column)
        if not finite.all():
            raise NotComputable(int(np.argwhere(~finite)[0][0]))
        return explanation

    def _why_not(self) -> str:
        if self.without_booster:
            return f"the service cannot use its trees ({self.without_booster})"
        return "it was trained before explanations were; train it again"

    # ------------------------------------------------------------------------------------------------ its proof

    def replay_golden(self, *, seconds: float = 10.0, row_seconds: float = 0.25) -> None:
        """Send the golden rows through the parser and the model, as a client's, and compare.

        Args:
            seconds: for all the rows together.
            row_seconds: for one row alone: the quickest of three tries, as a busy machine is not the model's fault.

        Raises:
            GoldenMismatch: an answer differs by more than the form's tolerance, or came too late.
        """
        started = time.monotonic()
        try:
            with runtimes.deadline(seconds) as options:
                quickest = min(self._timed_row(options, started, seconds) for _ in range(3))
                answer = self._replayed(self.schema.unlimited(_encode({"rows": self.golden["rows"]})), options)
        except Exception as error:
            if time.monotonic() - started >= seconds:
                raise GoldenMismatch(f"too slow: the golden rows took more than {seconds:g} s") from error
            reason = f"{error.field}: {error}" if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
            raise GoldenMismatch(f"the golden rows cannot be answered ({reason})") from error
        if quickest > row_seconds:
            raise GoldenMismatch(f"too slow: one row took {quickest:.2f} s, {row_seconds:g} s are allowed")
        compare(answer, self.golden)

    def _timed_row(self, options: Any, started: float, seconds: float) -> float:
        if time.monotonic() - started >= seconds:
            raise TimeoutError
        begun = time.monotonic()
        self._replayed(self.schema.one(_encode(self.golden["rows"][0])), options)
        return time.monotonic() - begun

    def _replayed(self, columns: Columns, options: Any) -> np.ndarray:
        return self._answer(self._onnx.predict(self.matrix(columns), options))


def compare(answer: np.ndarray, golden: dict[str, Any]) -> None:
    """Hold answers against the expected ones of a `golden.json`.

    Raises:
        GoldenMismatch: naming the first row that differs by more than the relative tolerance.
    """
    expected = np.array(golden["expected"], dtype=np.float64)
    tolerance = float(golden.get("tolerance", 1e-5))
    if answer.shape != expected.shape:
        raise GoldenMismatch(f"the answers have shape {answer.shape}, expected {expected.shape}")
    # of probabilities in 32 bits, the smaller one is only as exact as the larger one that it is the rest of
    close = np.isclose(answer, expected, rtol=tolerance, atol=tolerance * (1e-1 if expected.ndim == 2 else 1e-2))
    if not close.all():
        row = int(np.argwhere(~close)[0][0])
        raise GoldenMismatch(
            f"golden row {row}: answered {answer[row].tolist()}, expected {expected[row].tolist()}"
            f" (relative tolerance {tolerance:g}; {int((~close).sum())} answers of {close.size} differ)"
        )


def _checked_golden(golden: dict[str, Any]) -> dict[str, Any]:
    if not golden["rows"] or len(golden["rows"]) != len(golden["expected"]):
        raise BadServedForm(f"{GOLDEN} must hold rows, and as many expected answers")
    return golden


_encode = msgspec.json.Encoder().encode


def estimated_bytes(form: ServedForm) -> int:
    """What a form takes in memory, judged by its files before it is loaded."""
    sizes = {name: (form.directory / name).stat().st_size for name in form.manifest["files"]}
    return sum(round(sizes.get(name, 0) * factor) for name, factor in _MEMORY.items())


_MEMORY = {MODEL: 6.5, BOOSTER: 2.0, PREPROCESSING: 10.0, GOLDEN: 6.0}
"""Bytes in memory for each byte of a file, measured on ten copies of forms of all kinds: within a quarter of it."""
