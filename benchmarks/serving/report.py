"""The results: raw numbers in serving.json, what a person reads in serving.md, and a picture of both in serving.png."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving.processes import GENERATOR_CORE, SERVER_CORE

Results = dict[str, Any]
CONNECTIONS = (1, 16, 64)
BUSY = 0.15
"""Cores used by others from which a machine is not quiet."""
Bound = tuple[str, Callable[[float], bool]]
"""In words, and as a test."""
SIZES = {"one row": "One row", "100 rows": "100 rows"}


def load(folder: Path) -> Results:
    """What former runs have left; each part of the benchmark replaces its own section."""
    path = folder / "serving.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def circumstances(command: str, root: Path) -> Results:
    """When, where, by which command, of which code."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "command": command,
        "commit": _git(root, "rev-parse", "--short", "HEAD"),
        "changed": bool(_git(root, "status", "--porcelain", "--", "include", "bentofiles", "benchmarks/serving")),
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load average": os.getloadavg()[0],
    }


def write(folder: Path, results: Results) -> None:
    """Everything, anew, from the raw numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serving.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "serving.md").write_text(text(results), encoding="utf-8")
    if results.get("comparison"):
        _picture(results["comparison"]["contenders"], folder / "serving.png")


def text(results: Results) -> str:
    """The report in Markdown."""
    lines = ["# The prediction service beside others", "", "Written by `benchmarks/serving`; do not edit.", ""]
    if comparison := results.get("comparison"):
        lines += _comparison(comparison)
    if scaling := results.get("workers"):
        lines += _scaling(scaling)
    if price := results.get("price of the log"):
        lines += _price(price)
    if swaps := results.get("swaps"):
        lines += _swaps(swaps)
    targets = list(ratios(results))
    if targets:
        lines += ["## What was to be reached", ""]
        lines += table(("measure", "measured", "to reach", ""), [_target(*target) for target in targets])
    return "\n".join(lines).rstrip() + "\n"


# ------------------------------------------------------------------------------------------------- the comparison


def _comparison(comparison: Results) -> list[str]:
    contenders, limit = comparison["contenders"], comparison["generator"]
    lines = _told(comparison)
    lines += [
        "The same XGBoost model (300 trees of depth 6, 8 scaled numbers, 4 categories one-hot) and the same requests"
        f" for all; one worker each, all its processes on core {SERVER_CORE}, the load generator and the PostgreSQL"
        f" behind our service on core {GENERATOR_CORE}. {comparison['rounds']} rounds, servers started anew in each,"
        f" {comparison['seconds']:g} s a cell after a warm-up, the contenders by turns; medians. Processor time is that"
        " of all the server's processes, in user and system, from the first request until the server is at rest again:"
        " what is done after the answer counts. Ours answers with everything on: keys, validation, metrics, access"
        " log, and the prediction log, on disk before each answer and then copied into PostgreSQL.",
        "",
        "The raw handlers check types only; of the others none has a key or a log either.",
        "",
        "The load generator's own limit, against a constant answer: "
        + ", ".join(
            f"{found['throughput']:,} req/s at {at} ({found['cpu']:.0f} µs a request)" for at, found in limit.items()
        )
        + ". "
        + _others(run for found in contenders.values() for runs in found["cells"].values() for run in runs if run),
        "",
    ]
    for size, title in SIZES.items():
        header = ["", *(f"req/s, {c}" for c in CONNECTIONS), *(f"p50 / p99 ms, {c}" for c in CONNECTIONS)]
        rows = [
            [
                found["title"],
                *_throughputs(found, size),
                *_latencies(found, size),
                _cell(found, size, 16, "cpu", ",.0f"),
            ]
            for found in contenders.values()
            if any(name.startswith(size) for name in found["cells"])
        ]
        lines += [f"## {title}", "", *table((*header, "CPU µs a request, 16"), rows)]
    columns = ("", "start to first answer, s", "workers, MB", "beside them, MB", "workers, MB (PSS)", "versions")
    lines += ["## Start and memory", "", "Memory after the load, resident unless PSS is said.", ""]
    lines += table(columns, [_start(found) for found in contenders.values() if found["startup"]])
    absent = [f"- {found['title']}: {found['failure']}" for found in contenders.values() if found["failure"]]
    if absent:
        lines += ["## Did not take part", "", *absent, ""]
    lines += ["![throughput and p99](serving.png)", ""]
    trouble = list(_trouble(contenders))
    return lines + (["## Failures", "", *trouble, ""] if trouble else [])


def _told(section: Results) -> list[str]:
    code = section["commit"] + (" with uncommitted changes" if section["changed"] else "")
    return [
        f"{section['date']}, {section['machine']}, Python {section['python']}, commit {code}, load average"
        f" {section['load average']:.1f} before: `{section['command']}`",
        "",
    ]


def _others(runs: Iterable[Results]) -> str:
    used = [run["others_busy"] for run in runs]
    share = median(used) if used else 0.0
    busy = " **The machine was busy: trust the processor time per request, and little else.**" if share > BUSY else ""
    return f"Others on this machine used {share:.2f} of its cores meanwhile (median).{busy}"


def _runs(found: Results, size: str, connections: int) -> list[Results]:
    return [run for run in found["cells"].get(f"{size}, {connections} at once", ()) if run]


def _cell(found: Results, size: str, connections: int, what: str, form: str) -> str:
    runs = _runs(found, size, connections)
    return format(median(run[what] for run in runs), form) if runs else ""


def _throughputs(found: Results, size: str) -> list[str]:
    return [_cell(found, size, connections, "throughput", ",.0f") for connections in CONNECTIONS]


def _latencies(found: Results, size: str) -> list[str]:
    both = [(_cell(found, size, c, "p50", ".2f"), _cell(found, size, c, "p99", ".2f")) for c in CONNECTIONS]
    return [f"{p50} / {p99}" if p50 else "" for p50, p99 in both]


def _start(found: Results) -> list[str]:
    memory = found["memory"]
    each = {
        part: " + ".join(f"{value:.0f}" for value in sorted(_typical(memory, part), reverse=True))
        for part in ("workers", "others", "workers_proportional")
    }
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return [found["title"], f"{median(found['startup']):.2f}", *each.values(), versions]


def _typical(memory: list[Results], part: str) -> list[float]:
    """Of the round with the median sum."""
    if not memory:
        return []
    ordered = sorted((m[part] for m in memory), key=sum)
    return list(ordered[len(ordered) // 2])


def _trouble(contenders: Results) -> Iterator[str]:
    for found in contenders.values():
        for name, runs in found["cells"].items():
            failed = sum(run["failed"] for run in runs if run)
            if failed:
                first = next(run["errors"][0] for run in runs if run and run["errors"])
                yield f"- {found['title']}, {name}: {failed} requests failed, the first with `{first[:200]!r}`"
            many = 100 if name.startswith("100") else 1
            lost = sum(
                run["acknowledged"] * many - run["recorded"] for run in runs if run and run["recorded"] is not None
            )
            if lost:
                yield f"- {found['title']}, {name}: {lost} acknowledged predictions are not in PostgreSQL"


# ------------------------------------------------------------------------------------------------ the other parts


def _scaling(section: Results) -> list[str]:
    many = section["workers"]
    lines = [f"## {many} workers beside one", "", *_told(section)]
    lines += [
        "One worker has a core for itself; more have one each, and share them with the load generator and PostgreSQL."
        " So the ratio is given as measured; for the share of the cores that was left to the workers; and by the"
        " processor time that a request costs, which is what they would reach with a generator on another machine."
        " `each`: so many clients for each worker; else the workers share them. "
        + _others(run for cell in section["cells"].values() for count in ("one", "many") for run in cell[count]),
        "",
    ]
    header = ("", "one, req/s", f"{many}, req/s", "cores left", "as measured", "on the cores left", "by processor time")
    rows = []
    for name, cell in section["cells"].items():
        one, more = (median(run["throughput"] for run in cell[key]) for key in ("one", "many"))
        shares = [cell[key] for key in ("as measured", "on the cores left", "by processor time")]
        rows.append([name, f"{one:,.0f}", f"{more:,.0f}", f"{cell['cores left']:.2f}", *(f"{s:.2f}" for s in shares)])
    return lines + table(header, rows)


def _price(section: Results) -> list[str]:
    lines = ["## The price of the prediction log", "", *_told(section)]
    quiet = _others(run for cell in section["cells"].values() for found in cell.values() for run in found["rounds"])
    lines += [f"`none` is the service as a Bento by itself, without a database. {quiet}", ""]
    rows = [
        [
            name,
            policy,
            f"{found['throughput']:,.0f}",
            f"{found['p99']:.2f}",
            f"{found['cpu']:.0f}",
            f"{found['cost']:.1%}",
            f"{found['cost in processor time']:.1%}",
        ]
        for name, cell in section["cells"].items()
        for policy, found in cell.items()
    ]
    return lines + table(("", "fsync", "req/s", "p99 ms", "CPU µs a request", "cost in throughput", "more CPU"), rows)


def _swaps(section: Results) -> list[str]:
    p99, memory, took = section["p99"], section["memory"], section["seconds until every answer"]
    before, after = (sum(memory[when]["workers"]) for when in ("before", "after"))
    return [
        "## Swapping under load",
        "",
        *_told(section),
        f"{section['swaps']} swaps at 16 connections: {section['failed']} of {section['requests']:,} requests failed."
        f" p99 {p99['with']:.2f} ms with swaps, {p99['without']:.2f} ms without; the next version answered"
        f" {took['median']:.2f} s after its promotion (median; {took['largest']:.2f} s at most). Resident memory of the"
        f" worker {before:.0f} MB before, {after:.0f} MB after.",
        "",
    ]


# -------------------------------------------------------------------------------------------------- what to reach


def ratios(results: Results) -> Iterator[tuple[str, float, str, Callable[[float], bool]]]:
    """Each measure with its value, what is to be reached, and whether it is."""
    contenders = results.get("comparison", {}).get("contenders", {})

    def ratio(other: str, size: str, connections: int, what: str = "throughput") -> float | None:
        """The median of the rounds' ratios: the two were measured within seconds of each other."""
        if not {"ours", other} <= set(contenders):
            return None
        name = f"{size}, {connections} at once"
        pairs = zip(contenders["ours"]["cells"].get(name, ()), contenders[other]["cells"].get(name, ()), strict=False)
        found = [a[what] / b[what] for a, b in pairs if a and b and b[what]]
        return median(found) if found else None

    def cheaper(size: str) -> float | None:
        """How the throughputs of two cores that have nothing else to do would compare."""
        dearer = ratio("raw", size, 16, "cpu")
        return 1 / dearer if dearer else None

    one, many = "one row", "100 rows"
    targets: list[tuple[str, float | None, Bound | None]] = [
        ("throughput, ours / raw uvicorn, one row, 16 at once", ratio("raw", one, 16), at_least(0.8)),
        ("the same by processor time, copying the log included", cheaper(one), None),
        ("throughput, ours / raw uvicorn, one row, 64 at once", ratio("raw", one, 64), at_least(0.8)),
        ("throughput, ours / raw uvicorn, one row, 1 at once", ratio("raw", one, 1), None),
        ("throughput, ours / mlflow models serve, one row, 16 at once", ratio("mlflow", one, 16), at_least(40)),
        ("throughput, ours / BentoML's defaults, one row, 16 at once", ratio("bentoml", one, 16), None),
        ("p99, ours / raw uvicorn, one row, 16 at once", ratio("raw", one, 16, "p99"), at_most(1.5)),
        ("throughput, ours / raw uvicorn, 100 rows, 16 at once", ratio("raw", many, 16), at_least(0.9)),
        ("throughput, ours / raw libxgboost, 100 rows, 16 at once", ratio("raw-xgboost", many, 16), None),
        (
            "throughput, ours / FastAPI + inplace, 100 rows, 16 at once",
            ratio("fastapi-inplace", many, 16),
            at_least(1.3),
        ),
    ]
    if contenders.get("ours", {}).get("startup"):
        mine = contenders["ours"]
        targets.append(("start to first answer, s", median(mine["startup"]), below(3)))
        targets.append(("memory of a worker, MB", max(_typical(mine["memory"], "workers"), default=None), below(200)))
    for name, cell in results.get("workers", {}).get("cells", {}).items():
        targets.append((f"two workers / one, {name}", cell["on the cores left"], at_least(1.7)))
    for name, cell in results.get("price of the log", {}).get("cells", {}).items():
        targets.append((f"share of throughput for the durable log, {name}", cell["always"]["cost"], at_most(0.15)))
    if swaps := results.get("swaps"):
        targets.append((f"failed requests in {swaps['swaps']} swaps under load", float(swaps["failed"]), at_most(0)))
    for what, value, bound in targets:
        if value is not None:
            yield (what, value, *(bound or ("", lambda _: True)))


def at_least(bound: float) -> Bound:
    return f"at least {bound:g}", lambda value: value >= bound


def at_most(bound: float) -> Bound:
    return f"at most {bound:g}", lambda value: value <= bound


def below(bound: float) -> Bound:
    return f"below {bound:g}", lambda value: value < bound


def _target(what: str, value: float, wanted: str, reached: Callable[[float], bool]) -> list[str]:
    return [what, f"{value:.3g}", wanted, ("reached" if reached(value) else "**missed**") if wanted else ""]


# --------------------------------------------------------------------------------------------- tables and pictures


def table(header: tuple[str, ...] | list[str], rows: list[list[str]]) -> list[str]:
    """Markdown, aligned so that it can be read as it is."""
    cells = [list(header), *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    drawn = [f"| {' | '.join(_padded(row, widths))} |" for row in cells]
    rule = "|" + "|".join(f"{'-' * (w + 1)}{'-' if c == 0 else ':'}" for c, w in enumerate(widths)) + "|"
    return [drawn[0], rule, *drawn[1:], ""]


def _padded(row: list[str], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [t.rjust(w) if column else t.ljust(w) for column, (t, w) in enumerate(zip(row, widths, strict=True))]


def _picture(contenders: Mapping[str, Results], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 9), sharey="row", layout="constrained")
    panels = [
        (row, column, size, *what)
        for row, size in enumerate(SIZES)
        for column, what in enumerate((("throughput", "requests a second"), ("p99", "p99, ms")))
    ]
    for row, column, size, what, label in panels:
        shown = [found for found in contenders.values() if _runs(found, size, 16)][::-1]
        heights = [median(run[what] for run in _runs(found, size, 16)) for found in shown]
        colours = ["#c44e52" if found["title"].startswith("ours") else "#4c72b0" for found in shown]
        bars = axes[row][column].barh([found["title"] for found in shown], heights, color=colours)
        axes[row][column].bar_label(
            bars, [f"{h:,.0f}" if what == "throughput" else f"{h:.1f}" for h in heights], padding=3
        )
        axes[row][column].set(xscale="log", xlabel=label, title=f"{SIZES[size]}, 16 at once")
        axes[row][column].margins(x=0.15)
    figure.suptitle("One worker on one core, the same model and requests; logarithmic scales")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(root: Path, *arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip()
