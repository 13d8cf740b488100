"""Two kernels, one answer: whichever computes it, and however many rows are asked for together."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from include.inference import runtimes
from include.inference.predictor import Predictor
from include.settings import Task
from tests.include.serving.planted import Planted, plant, resealed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted") / "form")


def strange(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same rows, some with values that no training saw."""
    found = {name: values.copy() for name, values in columns.items()}
    found["a"][:4] = [np.nan, np.inf, -np.inf, 1e300]
    found["kind"][4:6] = [None, "unseen"]
    return found


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 200, 600])
def test_both_kernels_give_the_same_bits(planted: Planted, rows: int) -> None:
    predictor = Predictor.load(planted.form)
    answers = predictor.predict_by_each(strange(planted.columns) if rows == 600 else planted.first(rows))
    assert len(answers) == 2
    one, two = answers.values()
    assert one.shape == two.shape == (rows,)
    assert one.dtype == two.dtype == np.float64
    np.testing.assert_array_equal(one, two)


def test_an_answer_does_not_depend_on_the_rows_beside_it(planted: Planted) -> None:
    """Rows of several requests are answered together: each must get what it would get alone, to the bit."""
    predictor = Predictor.load(planted.form)
    predictor.crossover = 100
    together = predictor.predict(planted.columns)
    alone = [
        predictor.predict({name: values[row : row + 1] for name, values in planted.columns.items()})[0]
        for row in range(600)
    ]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(predictor.predict(planted.first(7)), alone[:7])


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize("estimator", ["xgboost", "random_forest"])
def test_both_answer_alike_for_every_estimator_of_trees_and_task(tmp_path: Path, estimator: str, task: Task) -> None:
    planted = plant(tmp_path / "form", estimator, task)
    answers = Predictor.load(planted.form).predict_by_each(strange(planted.columns))
    one, two = answers.values()
    assert one.shape == two.shape == ((600,) if task == "regression" else (600, {"binary": 2, "multiclass": 3}[task]))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize(
    "objective", ["reg:absoluteerror", "reg:pseudohubererror", "reg:gamma", "reg:tweedie", "count:poisson"]
)
def test_both_answer_alike_for_every_objective(tmp_path: Path, objective: str) -> None:
    planted = plant(tmp_path / "form", objective=objective)
    one, two = Predictor.load(planted.form).predict_by_each(strange(planted.columns)).values()
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_a_booster_that_disagrees_is_not_used_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planted = plant(tmp_path / "form")
    other = plant(tmp_path / "other", n_estimators=29)
    form = resealed(planted.form, booster_ubj=(other.form.directory / "booster.ubj").read_bytes())
    with caplog.at_level(logging.WARNING, "mlops.serving"):
        predictor = Predictor.load(form)
    assert predictor.crossover is None
    assert "golden row" in (predictor.without_booster or "")
    assert [record.message for record in caplog.records] == ["kernel not used"]
    np.testing.assert_array_equal(
        predictor.predict(planted.columns), Predictor.load(planted.form).predict(planted.columns)
    )
    predictor.replay_golden()


@pytest.mark.parametrize("damage", ["half", "empty", "text", "noise"])
def test_a_booster_that_cannot_be_read_is_not_used(tmp_path: Path, damage: str) -> None:
    """Sealed with right hashes, and still nothing breaks: onnxruntime answers."""
    planted = plant(tmp_path / "form")
    whole = (planted.form.directory / "booster.ubj").read_bytes()
    noise = np.random.default_rng(1).bytes(2000)
    content = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"{}", "noise": b"{" + noise + b"}"}[damage]
    predictor = Predictor.load(resealed(planted.form, booster_ubj=content))
    assert predictor.without_booster
    assert len(predictor.predict(planted.columns)) == 600
    predictor.replay_golden()


def test_a_form_from_before_there_were_boosters_answers_as_ever(tmp_path: Path) -> None:
    planted = plant(tmp_path / "form")
    before = Predictor.load(planted.form).predict(planted.columns)
    predictor = Predictor.load(resealed(planted.form, booster_ubj=None, explanation_json=None))
    assert (predictor.crossover, predictor.without_booster) == (None, None)
    np.testing.assert_array_equal(predictor.predict(planted.columns), before)


SERVED = """
import os, sys
from pathlib import Path
{before}
from include.inference import served_form
from include.inference.predictor import Predictor
from include.inference.errors import Refused
from tests.include.serving.planted import rows_of
import msgspec
threads = len(os.listdir("/proc/self/task"))
predictor = Predictor.load(served_form.verify(Path(sys.argv[1])))
predictor.replay_golden()
columns = predictor.schema.unlimited(msgspec.json.encode({{"rows": rows_of(500)}}))
predictor.predict(columns)
try:
    predictor.explain(columns).row(0)
    print("explained")
except Refused as refused:
    print(refused.status, refused.code, refused)
print(predictor.without_booster)
print(len(os.listdir("/proc/self/task")) - threads, "threads more")
print(sorted({{name.split(".")[0] for name in sys.modules if sys.modules[name]}} & {{
    "xgboost", "sklearn", "scipy", "pandas", "onnx", "mlflow"}}))
"""


def serve(form: Path, before: str = "", **environment: str) -> list[str]:
    """What a process of its own says, that knows the form and not the estimators."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    done = subprocess.run(
        [sys.executable, "-c", SERVED.format(before=before), str(form)],
        capture_output=True, text=True, cwd=ROOT, env={**kept, "PYTHONPATH": str(ROOT), **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() in ("", "kernel not used"), "nothing of the libraries' own is printed"
    return done.stdout.splitlines()


def test_xgboosts_library_answers_without_its_python_package(planted: Planted) -> None:
    assert serve(planted.form.directory) == ["explained", "None", "0 threads more", "[]"]


def test_without_xgboosts_library_onnxruntime_answers_everything(planted: Planted) -> None:
    refused, reason, *_ = serve(planted.form.directory, before="sys.modules['xgboost'] = None")
    assert reason == "the package xgboost is not installed"
    assert (
        refused == f"422 not_explainable this version cannot be explained: the service cannot use its trees ({reason})"
    )


def test_a_library_that_cannot_be_opened_is_done_without(planted: Planted, tmp_path: Path) -> None:
    (tmp_path / "xgboost" / "lib").mkdir(parents=True)
    (tmp_path / "xgboost" / "__init__.py").write_text("raise SystemExit('it was imported')")
    (tmp_path / "xgboost" / "lib" / "libxgboost.so").write_bytes(b"no library")
    _, reason, *_ = serve(planted.form.directory, before=f"sys.path.insert(0, {str(tmp_path)!r})")
    assert reason.startswith("libxgboost.so cannot be opened")


def test_onnxruntime_reports_nothing_to_its_makers(planted: Planted, tmp_path: Path) -> None:
    """Its wheels do by default: an id and a queue of events below the home folder, and a thread that sends them."""
    serve(planted.form.directory, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert list(tmp_path.rglob("*")) == []


def test_several_threads_are_answered_at_once(planted: Planted) -> None:
    predictor = Predictor.load(planted.form)
    predictor.crossover = 2
    expected, explained = predictor.predict(planted.columns), predictor.explain(planted.first(40)).by_column

    def ask(start: int) -> bool:
        part = {name: values[start : start + 30] for name, values in planted.columns.items()}
        right = bool((predictor.predict(part) == expected[start : start + 30]).all())
        return right and (
            start > 10 or bool((predictor.explain(part).by_column == explained[start : start + 30]).all())
        )

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, [n * 7 % 560 for n in range(400)]))


def test_dropped_boosters_give_their_memory_back(planted: Planted) -> None:
    model = (planted.form.directory / "booster.ubj").read_bytes()
    matrix = planted.matrix

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def turn(times: int) -> None:
        for _ in range(times):
            booster = runtimes.Booster(model)
            booster.predict(matrix)
            booster.contributions(matrix[:5])

    turn(20)
    before = resident()
    turn(100)
    assert resident() - before < 30 * len(model)


def test_a_matrix_of_another_width_is_refused(planted: Planted) -> None:
    booster = runtimes.Booster((planted.form.directory / "booster.ubj").read_bytes())
    with pytest.raises(runtimes.BadKernel, match=r"float32 matrix of 6 columns, not float32 \(3, 4\)"):
        booster.predict(np.zeros((3, 4), np.float32))


def busy(fixed: float, row: float) -> runtimes.Run:
    """A kernel of known costs."""

    def run(X: np.ndarray) -> None:
        until = time.thread_time() + fixed + row * len(X)
        while time.thread_time() < until:
            pass

    return run


def test_the_crossover_is_where_both_take_the_same_time() -> None:
    X = np.zeros((5, 2), np.float32)
    assert runtimes.crossover(busy(20e-6, 10e-6), busy(320e-6, 4e-6), X) == pytest.approx(50, abs=6)


def test_a_kernel_that_is_never_quicker_is_never_taken() -> None:
    assert runtimes.crossover(busy(20e-6, 5e-6), busy(20e-6, 10e-6), np.zeros((5, 2), np.float32)) is None
