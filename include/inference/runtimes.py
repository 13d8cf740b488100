"""What computes the answers of a matrix: onnxruntime for few rows, XGBoost's own C++ library for many; one thread each.

One row costs onnxruntime a tenth of what it costs XGBoost, a thousand rows twice as much; where the two meet depends
on the trees and on the machine, and is measured when a model is loaded. XGBoost's library is opened by ctypes from the
installed wheel, as its Python package would import scipy. Neither reads a pickle.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at the import: else its wheels report to Microsoft, over the network
import onnxruntime

_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
FEW, MANY, TRIES = 8, 256, 9
"""Rows with which the two are timed, and how often."""
Run = Callable[[np.ndarray], Any]
_LARGEST = np.finfo(np.float32).max


class BadKernel(RuntimeError):
    """A kernel cannot be had: its library is missing, or it cannot read the model."""


class Onnx:
    """An ONNX graph from one matrix to one output."""

    def __init__(self, model: bytes) -> None:
        self._session = session = _session(model)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or inputs[0].type not in _FLOATS:
            raise BadKernel(f"expected one input of floats, found {[(i.name, i.type) for i in inputs]}")
        if len(outputs) != 1:
            raise BadKernel(f"expected one output, `prediction`, found {[o.name for o in outputs]}")
        self._input, self._outputs = inputs[0].name, [outputs[0].name]
        self.dtype = _FLOATS[inputs[0].type]
        """What a matrix must be of."""

    def predict(self, X: np.ndarray, options: Any = None) -> np.ndarray:
        """A contiguous matrix (n, k) → (n,), (n, 1) or (n, classes); `options` can end it from another thread."""
        answer: np.ndarray = self._session.run(self._outputs, {self._input: X}, options)[0]
        return answer


@contextmanager
def deadline(seconds: float) -> Iterator[Any]:
    """Options for `Onnx.predict` that end it after some seconds, and it raises."""
    options = onnxruntime.RunOptions()
    watchdog = threading.Timer(seconds, lambda: setattr(options, "terminate", True))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield options
    finally:
        watchdog.cancel()


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False  # an arena would keep the largest batch's memory for ever
    options.log_severity_level = 4  # failures are raised; nothing is to be printed beside the JSON log
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Booster:
    """Trees in XGBoost's own format; safe to use from several threads.

    Args:
        model: what `xgboost.Booster.save_raw("ubj")` gives.

    Raises:
        BadKernel: there is no library, or it does not read this model.
    """

    def __init__(self, model: bytes) -> None:
        self._library = library()
        if model[:1] != b"{" or model[-1:] != b"}":  # the library reads beyond the end of half a file
            raise BadKernel("the booster is not whole")
        self._handle, self._proxy = ctypes.c_void_p(), ctypes.c_void_p()
        self._proxy_is_free = threading.Lock()
        self._library.XGBSetGlobalConfig(b'{"verbosity": 0}')  # this thread's: nothing is printed beside the JSON log
        self._call("XGBoosterCreate", None, _U64(0), ctypes.byref(self._handle))
        self._call("XGBoosterSetParam", self._handle, b"nthread", b"1")
        with _one_thread(self._library):
            self._call("XGBoosterLoadModelFromBuffer", self._handle, model, _U64(len(model)))
        self._call("XGProxyDMatrixCreate", ctypes.byref(self._proxy))
        features = _U64()
        self._call("XGBoosterGetNumFeature", self._handle, ctypes.byref(features))
        self.features = features.value

    def predict(self, X: np.ndarray) -> np.ndarray:
        """A contiguous float32 matrix (n, k) → (n, targets), NaN missing."""
        shape, dimensions, result = _output()
        made = ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(result)
        # with a proxy of our own a call takes 50 µs less; there is one, and who finds it taken does without
        mine = self._proxy_is_free.acquire(blocking=False)
        try:
            proxy = self._proxy if mine else None
            self._call("XGBoosterPredictFromDense", self._handle, self._described(X), _PREDICTION, proxy, *made)
        finally:
            if mine:
                self._proxy_is_free.release()
        return _copied(shape, dimensions, result)

    def contributions(self, X: np.ndarray) -> np.ndarray:
        """(n, targets, k + 1): what each feature adds to the score, by exact TreeSHAP; the last is the base.

        S. M. Lundberg et al., "From local explanations to global understanding with explainable AI for trees" (Nature
        Machine Intelligence 2, 2020), with expectations by the training rows that took each branch.
        """
        X = np.clip(X, -_LARGEST, _LARGEST)  # infinity would be refused here; this takes the same branches
        matrix = ctypes.c_void_p()
        self._call("XGDMatrixCreateFromDense", self._described(X), _MATRIX, ctypes.byref(matrix))
        try:
            shape, dimensions, result = _output()
            made = ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(result)
            self._call("XGBoosterPredictFromDMatrix", self._handle, matrix, _CONTRIBUTIONS, *made)
            return _copied(shape, dimensions, result)
        finally:
            self._library.XGDMatrixFree(matrix)

    def _described(self, X: np.ndarray) -> bytes:
        if X.shape[1] != self.features or X.dtype != np.float32 or not X.flags.c_contiguous:
            raise BadKernel(f"takes a contiguous float32 matrix of {self.features} columns, not {X.dtype} {X.shape}")
        pointer = X.__array_interface__["data"][0]
        return b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (pointer, *X.shape)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            lines = self._library.XGBGetLastError().decode(errors="replace").splitlines()
            raise BadKernel(f"{name}: {_PLACE.sub('', lines[0]) if lines else 'failed'}")

    def __del__(self) -> None:
        if getattr(self, "_proxy", None):
            self._library.XGDMatrixFree(self._proxy)
        if getattr(self, "_handle", None):
            self._library.XGBoosterFree(self._handle)


_U64 = ctypes.c_uint64
_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
"""The time and the line of source with which the library begins its messages."""
_ALL_TREES = {"training": False, "iteration_begin": 0, "iteration_end": 0, "strict_shape": True}
_PREDICTION = json.dumps({**_ALL_TREES, "type": 0, "missing": float("nan")}).encode()
_CONTRIBUTIONS = json.dumps({**_ALL_TREES, "type": 2}).encode()
_MATRIX = json.dumps({"missing": float("nan"), "nthread": 1}).encode()


def _output() -> tuple[Any, Any, Any]:
    return ctypes.POINTER(_U64)(), _U64(), ctypes.POINTER(ctypes.c_float)()


def _copied(shape: Any, dimensions: Any, result: Any) -> np.ndarray:
    """The library's own memory, which its next answer overwrites, as an array of ours."""
    sizes = tuple(shape[i] for i in range(dimensions.value))
    return np.ctypeslib.as_array(result, sizes).copy()


@functools.cache
def library() -> Any:
    """XGBoost's C++ library, opened once; its Python package is found, not imported.

    Raises:
        BadKernel: no wheel is installed, or it cannot be opened.
    """
    spec = importlib.util.find_spec("xgboost")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted((Path(folder) / "lib").glob("libxgboost.*"))]
    if not files:
        raise BadKernel("the package xgboost is not installed")
    try:
        opened = ctypes.CDLL(str(files[0]))
        opened.XGBGetLastError.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise BadKernel(f"{files[0].name} cannot be opened: {error}") from error
    return opened


@contextmanager
def _one_thread(opened: Any) -> Iterator[None]:
    """While a model is read, for which the library starts a thread on each processor, whatever `nthread` says."""
    before = opened.omp_get_max_threads()
    opened.omp_set_num_threads(1)
    try:
        yield
    finally:
        opened.omp_set_num_threads(before)


def crossover(few: Run, many: Run, X: np.ndarray) -> int | None:
    """From how many rows on `many` is the quicker one; None: never.

    Both are timed on FEW and on MANY rows; in between, time grows with the rows. Both give the same answers, so that
    a wrong number costs microseconds and nothing else.

    Args:
        X: some real rows. Mixed column by column they are made as many as are needed, no two alike: a processor learns
            the branches of rows that it sees again.
    """
    rows = np.random.default_rng(0).permuted(np.resize(X, (TRIES * MANY, X.shape[1])), axis=0)
    (few_low, few_high), (many_low, many_high) = (
        [_seconds(run, rows[: TRIES * size].reshape(TRIES, size, -1)) for size in (FEW, MANY)] for run in (few, many)
    )
    gain = ((few_high - few_low) - (many_high - many_low)) / (MANY - FEW)  # of each further row
    return None if gain <= 0 else max(1, round(FEW + (many_low - few_low) / gain))


def _seconds(run: Run, parts: np.ndarray, *, longest: float = 0.02) -> float:
    """The quickest try, each with rows of its own, by this thread's own time: a busy machine only ever makes slower."""
    found: list[float] = []
    for part in parts:
        began = time.thread_time()
        run(part)
        found.append(time.thread_time() - began)
        if len(found) > 1 and sum(found) > longest:
            break
    return min(found)
