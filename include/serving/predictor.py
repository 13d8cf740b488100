"""One served form, loaded: columns in, predictions out, with NumPy and onnxruntime on one thread.

Training proves its equality check with this very code, and the service answers with it. Nothing is unpickled: the
estimator is ONNX, preprocessing is JSON, and a definition is compiled from the source whose hash the manifest holds.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import onnxruntime

from include.features.feature_set import FeatureSet
from include.served_form import BadServedForm, ServedForm
from include.serving.requests import Columns, Refused, Schema

MODEL, PREPROCESSING, DEFINITION, GOLDEN = "model.onnx", "preprocessing.json", "definition.py", "golden.json"
_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}


class GoldenMismatch(RuntimeError):
    """The model does not give the answers that were packed with it, or not in time."""


class NotComputable(ValueError):
    """The model has no finite answer for a row; `.row` is its number."""

    def __init__(self, row: int) -> None:
        super().__init__(f"the model has no finite answer for row {row}")
        self.row = row


class Predictor:
    """A served form in memory; safe to use from several threads."""

    def __init__(
        self, form: ServedForm, features: FeatureSet, fitted: dict[str, Any], session: Any, golden: dict[str, Any]
    ) -> None:
        self.manifest = form.manifest
        self.content_hash = form.content_hash
        self.schema = Schema(form.manifest["inputs"], int(form.manifest["max_batch"]))
        self.classes: list[Any] | None = form.manifest.get("classes")
        self.golden = golden
        self._features, self._fitted = features, fitted
        self._unknown = form.manifest.get("unknown_category", "other")
        self._session = session
        argument = session.get_inputs()[0]
        self._input, self._float = argument.name, _FLOATS[argument.type]

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
            session = _session((form.directory / MODEL).read_bytes())
            return cls(form, features, fitted, session, golden)
        except Exception as error:  # whatever a foreign file provokes: it is refused, and the caller keeps what it has
            raise BadServedForm(f"{form.directory}: cannot be loaded ({type(error).__name__}: {error})") from error

    def predict(self, columns: Columns) -> np.ndarray:
        """Raw input columns → `(n,)` for regression, `(n, classes)` probabilities for classification.

        Raises:
            NotComputable: the answer for a row is not a finite number.
        """
        return self._predict(columns, None)

    def _predict(self, columns: Columns, options: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            computed = self._features.compute(columns)
            matrix = self._features.transform(self._fitted, computed, unknown=self._unknown)
            matrix = np.ascontiguousarray(matrix, dtype=self._float)
        answer = np.asarray(self._session.run(None, {self._input: matrix}, options)[0], dtype=np.float64)
        answer = answer.reshape(len(matrix)) if self.classes is None else answer.reshape(len(matrix), len(self.classes))
        finite = np.isfinite(answer)
        if not finite.all():
            raise NotComputable(int(np.argwhere(~finite)[0][0]))
        return answer

    def replay_golden(self, *, seconds: float = 10.0, row_seconds: float = 0.25) -> None:
        """Send the golden rows through the parser and the model, as a client's, and compare.

        Args:
            seconds: for all the rows together.
            row_seconds: for one row alone: the quickest of three tries, as a busy machine is not the model's fault.

        Raises:
            GoldenMismatch: an answer differs by more than the form's tolerance, or came too late.
        """
        options = onnxruntime.RunOptions()
        watchdog = threading.Timer(seconds, lambda: setattr(options, "terminate", True))
        watchdog.daemon = True
        watchdog.start()
        started = time.monotonic()
        try:
            quickest = min(self._timed_row(options, started, seconds) for _ in range(3))
            body = _encode({"rows": self.golden["rows"]})
            answer = self._predict(self.schema.unlimited(body), options)
        except Exception as error:
            if time.monotonic() - started >= seconds:
                raise GoldenMismatch(f"too slow: the golden rows took more than {seconds:g} s") from error
            reason = f"{error.field}: {error}" if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
            raise GoldenMismatch(f"the golden rows cannot be answered ({reason})") from error
        finally:
            watchdog.cancel()
        if quickest > row_seconds:
            raise GoldenMismatch(f"too slow: one row took {quickest:.2f} s, {row_seconds:g} s are allowed")
        compare(answer, self.golden)

    def _timed_row(self, options: Any, started: float, seconds: float) -> float:
        if time.monotonic() - started >= seconds:
            raise TimeoutError
        begun = time.monotonic()
        self._predict(self.schema.one(_encode(self.golden["rows"][0])), options)
        return time.monotonic() - begun


def compare(answer: np.ndarray, golden: dict[str, Any]) -> None:
    """Hold answers against the expected ones of a `golden.json`.

    Raises:
        GoldenMismatch: naming the first row that differs by more than the relative tolerance.
    """
    expected = np.array(golden["expected"], dtype=np.float64)
    tolerance = float(golden.get("tolerance", 1e-5))
    if answer.shape != expected.shape:
        raise GoldenMismatch(f"the answers have shape {answer.shape}, expected {expected.shape}")
    close = np.isclose(answer, expected, rtol=tolerance, atol=tolerance * 1e-2)
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


def _encode(document: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(document)


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False  # an arena would keep the largest batch's memory for ever
    options.log_severity_level = 4  # failures are raised; nothing is to be printed beside the JSON log
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _FLOATS:
        raise BadServedForm(f"{MODEL}: expected one input of floats, found {[(i.name, i.type) for i in inputs]}")
    if len(outputs) != 1:
        raise BadServedForm(f"{MODEL}: expected one output, `prediction`, found {[o.name for o in outputs]}")
    return session
