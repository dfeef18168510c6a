"""The results as a page of Markdown, with what a reader needs to judge them."""

from typing import Any

from rivals import cases, roofline

TOLERANCE = 1.5
"""A solver counts as equally accurate up to this factor of our error (of C's, where ours did not run)."""
NAMES = {"ours": "seisvel_jax", "C": "plain C", "deepwave-threads": "deepwave, its own threads"}


def markdown(result: dict[str, Any]) -> str:
    unequal = not_equal(result["accuracy"])
    lines = [
        f"# Wave solvers side by side, {result['hardware']}",
        "",
        f"Commit {result['commit']}, {result['date']}; load average {_load(result['load_start'])} at the start, "
        f"{_load(result['load_end'])} after {result['minutes']} minutes (the benchmark's own work included). "
        f"`{result['command'].strip()}`",
        "",
        "Versions: " + "; ".join(dict.fromkeys(result["versions"].values())) + ".",
        "",
    ]
    if not result["complete"]:
        lines += ["**Not complete: the run is still going, or was stopped.**", ""]
    lines += _summary(result, unequal)
    lines += _accuracy(result["accuracy"], unequal)
    lines += _roofline(result["roofline"])
    lines += _details(result, unequal)
    if result["skipped"]:
        lines += ["## Left out", "", *(f"- {one['what']}: {one['why']}" for one in result["skipped"]), ""]
    return "\n".join(lines).rstrip()


def not_equal(accuracy: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """(solver, order) whose error is more than TOLERANCE times the reference's at one of the speeds."""
    names = {row["solver"] for row in accuracy}
    reference = "ours" if "ours" in names else "C"
    base = {(row["order"], row["speed"]): row["error"]["l2"] for row in accuracy if row["solver"] == reference}
    worse = {
        (row["solver"], row["order"])
        for row in accuracy
        if row["error"]["l2"] > TOLERANCE * base.get((row["order"], row["speed"]), float("inf"))
    }
    return worse | {("deepwave-threads", order) for solver, order in worse if solver == "deepwave"}


def _load(values: Any) -> str:
    return " ".join(f"{one:.1f}" for one in values)


def _cores(threads: int) -> str:
    return {0: "GPU", 1: "1 core"}.get(threads, f"{threads} cores")


def _groups(rows: list[dict[str, Any]]) -> dict[tuple, dict[str, dict[str, Any]]]:
    groups: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        key = row["case"], row["order"], row["threads"], row["mode"]
        groups.setdefault(key, {})[row["solver"]] = row
    return groups


def _summary(result: dict[str, Any], unequal: set) -> list[str]:
    solvers = [
        s
        for s in ("ours", "deepwave", "deepwave-threads", "devito", "C")
        if any(r["solver"] == s for r in result["timings"])
    ]
    if not solvers:
        return []
    rivals = [s for s in solvers if s != "ours"]
    head = [
        "case",
        "cores",
        "order",
        "mode",
        *("seisvel_jax",) * ("ours" in solvers),
        *(NAMES.get(s, s) for s in rivals),
    ]
    lines = [
        "## Milliseconds a shot",
        "",
        "Medians of interleaved timings; in brackets how many times longer than seisvel_jax. "
        f"`*` = not at equal accuracy (error more than {TOLERANCE} times ours, see below).",
        "",
        "| " + " | ".join([*head, "fastest rival at equal accuracy"]) + " |",
        "|" + "---|" * (len(head) + 1),
    ]
    for (case, order, threads, mode), rows in _groups(result["timings"]).items():
        ours = rows.get("ours")
        cells = [case, _cores(threads), str(order), "forward" if mode == "forward" else "forward + gradient"]
        if "ours" in solvers:
            cells.append(f"**{_ms(ours)}**" if ours else "-")
        for solver in rivals:
            row = rows.get(solver)
            mark = "\\*" if (solver, order) in unequal else ""
            ratio = f" ({row['ms_per_shot'] / ours['ms_per_shot']:.2f}x)" if ours and row else ""
            cells.append(f"{_ms(row)}{mark}{ratio}" if row else "-")
        fair = [rows[s] for s in rivals if s in rows and (s, order) not in unequal]
        best = min(fair, key=lambda row: row["ms_per_shot"], default=None)
        told = "-"
        if best:
            name = NAMES.get(best["solver"], best["solver"])
            told = f"{name} {best['ms_per_shot'] / ours['ms_per_shot']:.2f}x" if ours else name
        lines.append("| " + " | ".join([*cells, told]) + " |")
    titles = {row["case"]: cases.CASES[row["case"]].title for row in result["timings"]}
    return [*lines, "", *(f"- {name}: {title}" for name, title in titles.items()), ""]


def _ms(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    value = row["ms_per_shot"]
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _accuracy(accuracy: list[dict[str, Any]], unequal: set) -> list[str]:
    if not accuracy:
        return []
    lines = [
        "## Accuracy",
        "",
        "Homogeneous 70x70 nodes of 10 m, 1 s, against the analytic 2-D Green's function convolved with the wavelet: "
        "relative L2 of all traces from 50 m on, after the best shift by whole samples and one factor (both given; "
        "`plain` is without them). `unbounded` is the same on a domain so large that nothing comes back; the echo is "
        "the largest difference between the two, relative to the direct wave. PML of 10 cells; devito's damping "
        "layer 40 cells (narrower ones echo still more).",
        "",
        "| solver | order | m/s | L2 | unbounded | echo dB | shift | factor | plain | equal accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(accuracy, key=lambda r: (r["order"], r["speed"])):
        error = row["error"]
        equal = "no" if (row["solver"], row["order"]) in unequal else "yes"
        lines.append(
            f"| {NAMES.get(row['solver'], row['solver'])} | {row['order']} | {row['speed']:g} | {error['l2']:.4f} | "
            f"{row['interior']['l2']:.4f} | {row['echo_db']} | {error['shift']} | {error['scale']:.4f} | "
            f"{error['unshifted_l2']:.4f} | {equal} |"
        )
    return [*lines, ""]


def _roofline(machine: dict[str, dict[str, float]]) -> list[str]:
    if not machine:
        return []
    names = list(dict.fromkeys(name for values in machine.values() for name in values))
    lines = [
        "## Roofline of this machine, measured in the same run",
        "",
        "Triad `a = b + s c` (12 bytes an element) with its arrays in each level; fused multiply-adds from registers. "
        f"Bound of a cell update: {roofline.FORWARD_BYTES} bytes forward (read p, p before and c2, write p next), "
        f"{roofline.GRADIENT_BYTES} bytes forward + gradient (the two runs, the history written and read, the sum), "
        "from the level in which 16 bytes a cell of one shot fit; or the operations "
        f"({roofline.operations(4)} at order 4, {roofline.operations(8)} at order 8, a run). "
        "PML, recording, recomputation count as nothing, so 1 cannot be reached.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for threads, values in machine.items():
        lines.append(f"| {_cores(int(threads))} | " + " | ".join(f"{values.get(name, '-')}" for name in names) + " |")
    return [*lines, ""]


def _details(result: dict[str, Any], unequal: set) -> list[str]:
    if not result["timings"]:
        return []
    lines = [
        "## Details",
        "",
        "Cell updates count the model and 10 cells of layer for every solver. CPU: time of "
        "all threads, waiting in a loop included. Memory: peak of the process after the first call above what "
        "its imports took. Compile: first call less the median. Agreement: relative L2 of the gathers (best shift and "
        "factor) or of the gradient (as it is, away from sources and edges) to that of the solver named, on the first "
        "model of the case.",
        "",
        "| case | cores | order | mode | solver | ms/shot (quartiles) | CPU ms | n | Mcell/s | of roofline | peak MB "
        "| compile s | agreement |",
        "|" + "---|" * 13,
    ]
    for row in result["timings"]:
        low, high = row["quartiles_ms"]
        fraction = f"{row['roofline_fraction']:.2f} {row['roofline_level']}" if "roofline_fraction" in row else "-"
        other = row.get("agreement")
        agreed = f"{other['l2']:.2g} {NAMES.get(other['with'], other['with'])}" if other else "-"
        mark = "\\*" if (row["solver"], row["order"]) in unequal else ""
        lines.append(
            f"| {row['case']} | {_cores(row['threads'])} | {row['order']} | {row['mode']} | "
            f"{NAMES.get(row['solver'], row['solver'])}{mark} | {_ms(row)} ({low:.4g}-{high:.4g}) | "
            f"{row['cpu_ms_per_shot']:.1f} | {row['repeats']} | "
            f"{row['mcells_per_second']:.0f} | {fraction} | {row['peak_mb']:.0f} | {row['compile_s']:.1f} | {agreed} |"
        )
    return [*lines, ""]
