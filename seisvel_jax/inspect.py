"""Look at a dataset before training or predicting: what it holds, what is wrong with it, a few samples drawn.

Names every bad sample with its reason. Exit code 0: usable; 1: bad samples, or samples of train/ again in test/;
2: there is nothing to read at that path.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from seisvel_jax.errors import UserError, run_command

if TYPE_CHECKING:
    from seisvel_jax.data.inspection import Report

DRAWN = 4


@dataclass(frozen=True)
class Inspect:
    """Options of the command."""

    data: tyro.conf.Positional[str]
    """Folder of samples (challenge or OpenFWI layout, or a pack), a root with train/ and test/, or one OpenFWI file."""
    figures: Path | None = None
    """Folder to draw a few samples into."""
    json: Path | None = None
    """File to write the findings to."""
    limit: int | None = None
    """Look at so many samples only, spread evenly."""


def inspect(options: Inspect) -> int:
    """Print the findings on stdout; return 0 where the data are usable, 1 where not. Raises UserError."""
    from seisvel_jax.data.dataset import open_dataset, split_folders
    from seisvel_jax.data.inspection import inspect_dataset, overlap
    from seisvel_jax.logging import progress

    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}, expected at least 1")
    for place in (options.json and options.json.parent, options.figures):
        _check_writable(place)
    path = Path(options.data)
    splits = split_folders(path) if path.is_dir() else []
    reports = {}
    for folder in splits or [path]:
        dataset = open_dataset(folder)
        indices = _spread(len(dataset), options.limit)
        report = inspect_dataset(dataset, progress(indices, f"inspect {folder.name}"))
        print(_table(report))
        if options.figures is not None and report.good:
            _draw(options.figures, dataset, report.good, folder.name if splits else "")
        reports[folder.name if splits else ""] = report

    names = list(reports)
    overlaps = {f"{a}/{b}": overlap(reports[a], reports[b]) for k, a in enumerate(names) for b in names[k + 1 :]}
    for pair, twins in overlaps.items():
        for a, b in twins:
            first, second = pair.split("/")
            print(f"OVERLAP {first}/{a} = {second}/{b}: the same contents on both sides makes scores worthless")
    usable = not any(r.bad for r in reports.values()) and not any(overlaps.values())
    print(_verdict(list(reports.values()), overlaps))
    if options.json is not None:
        _write_json(options.json, reports, overlaps, usable)
    return 0 if usable else 1


def _check_writable(folder: Path | None) -> None:
    # Before hours of reading, not after.
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written to: choose another place for --json or --figures")


def _spread(count: int, limit: int | None) -> list[int]:
    import numpy as np

    if limit is None or limit >= count:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, limit).round()]


def _table(report: "Report") -> str:
    facts = report.to_dict()
    survey, gathers, velocity = facts["survey"], facts["gathers"], facts.get("velocity")
    rows = [
        ("data", f"{report.path} ({report.layout} layout)"),
        ("samples", f"{report.samples}" + (f", {report.inspected} looked at" * (report.inspected < report.samples))),
        (
            "survey",
            f"{survey['name']}: {survey['sources']} shots at x = {', '.join(f'{x:g}' for x in survey['source_x'][:8])}"
            f"{' …' * (survey['sources'] > 8)} m, depth {_range(survey['source_depth'])} m",
        ),
        (
            "receivers",
            f"{survey['receivers']} at x = {_range(survey['receiver_x'])} m, "
            f"depth {_range(survey['receiver_depth'])} m",
        ),
        (
            "record",
            f"{survey['record_length']:g} s, {survey['nt']} samples of {1e3 * survey['dt']:g} ms, "
            f"wavelet peak {survey['wavelet_peak_frequency']:.1f} Hz",
        ),
        (
            "ground",
            f"{survey['grid_width']:g} m wide, {survey['grid_depth']:g} m deep at {survey['grid_spacing']:g} m; "
            f"sponge {survey['boundary']}",
        ),
        ("gathers", f"{tuple(gathers['shape'])} (source, time, receiver){_kinds(gathers['dtypes'])}"),
    ]
    if "std" in gathers:
        rows.append(
            (
                "  amplitude",
                f"std {gathers['std']:.4g}, mean {gathers['mean']:.2g}, {gathers['min']:.4g} to {gathers['max']:.4g}",
            )
        )
    if velocity is None:
        rows.append(("velocity", "none (a test set)"))
    else:
        unit = "km/s, lateral first" if report.layout == "challenge" else "m/s"
        rows.append(("velocity", f"{tuple(velocity['shape'])} (depth, x){_kinds(velocity['dtypes'])} {unit}"))
        if "mean" in velocity:
            rows.append(
                (
                    "  m/s",
                    f"mean {velocity['mean']:.1f}, std {velocity['std']:.1f}, "
                    f"{velocity['min']:g} to {velocity['max']:g}",
                )
            )
            if report.survey.name == "speed-and-structure":
                rows.append(
                    (
                        "  water, salt",
                        f"{velocity['water_share']:.1%} of the cells at exactly 1500, {velocity['salt_share']:.1%} at "
                        f"exactly 4500 (in {velocity['samples_with_salt']:.0%} of the samples)",
                    )
                )
    for what, groups in (("gathers", report.duplicates), ("velocity", report.velocity_duplicates)):
        if groups:
            rows.append((f"same {what}", f"{len(groups)} groups of samples"))
    lines = [f"{name:<14} {value}" for name, value in rows]
    lines += [f"DUPLICATE gathers: {_equal(group)}" for group in report.duplicates]
    known = {tuple(group) for group in report.duplicates}
    lines += [
        f"DUPLICATE velocity: {_equal(group)}" for group in report.velocity_duplicates if tuple(group) not in known
    ]
    lines += [f"BAD {entry['name']}: {entry['reason']}" for entry in report.bad]
    return "\n".join(lines)


def _equal(names: list[str]) -> str:
    return " = ".join(names[:10]) + (f" and {len(names) - 10} more (--json has all)" if len(names) > 10 else "")


def _kinds(dtypes: dict[str, int]) -> str:
    return "; files: " + " and ".join(dtypes) if dtypes else ""


def _range(bounds: list[float]) -> str:
    return f"{bounds[0]:g}" if bounds[0] == bounds[1] else f"{bounds[0]:g} to {bounds[1]:g}"


def _verdict(reports: list["Report"], overlaps: dict[str, Any]) -> str:
    bad = sum(report.bad_samples for report in reports)
    inspected = sum(report.inspected for report in reports)
    twins = sum(map(len, overlaps.values()))
    if bad:
        return f"NOT USABLE: {bad} of {inspected} samples are bad (each named above): mend them or take them out"
    if twins:
        return f"NOT USABLE: {twins} samples are on both sides of the split: take them out of one"
    copies = sum(len(group) - 1 for report in reports for group in report.duplicates)
    note = (
        f"; {copies} copies of other samples: keep one of each, or they may sit in train and validation"
        if copies
        else ""
    )
    return f"usable: {inspected} good sample{'' if inspected == 1 else 's'}{note}"


def _draw(folder: Path, dataset: Any, good: list[int], split: str) -> None:
    from seisvel_jax import plotting
    from seisvel_jax.logging import say

    chosen = [good[k] for k in _spread(len(good), DRAWN)]
    path = folder / (f"samples_{split}.png" if split else "samples.png")
    plotting.draw_samples(
        path,
        [dataset.velocity(i) for i in chosen] if dataset.has_velocity else None,
        [dataset.gathers(i) for i in chosen],
        [dataset.names[i] for i in chosen],
        dataset.survey,
    )
    say(f"drawn: {path}")


def _write_json(path: Path, reports: dict[str, "Report"], overlaps: dict[str, Any], usable: bool) -> None:
    from seisvel_jax.files import whole_file
    from seisvel_jax.logging import say

    found = {"usable": usable, "sets": [report.to_dict() for report in reports.values()], "overlap": overlaps}
    with whole_file(path) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say(f"written: {path}")


def main() -> int:
    """The command line."""
    return inspect(tyro.cli(Inspect, prog="python -m seisvel_jax.inspect", description=__doc__))


if __name__ == "__main__":
    run_command(main)
