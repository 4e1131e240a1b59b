# SPDX-License-Identifier: Apache-2.0
"""What came of a task whose policy drew chunks that make no sense."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from graph_client import SentCommand
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest

from vla_nodes.inference import Verdict

ARM = 5  # joints; the gripper only opens and closes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """How many of how many.

    Attributes:
        count: Of those that are meant.
        total: Of all.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """From 0 to 1; NaN of none."""
        return self.count / self.total if self.total else float("nan")

    def __str__(self) -> str:
        if not self.total:
            return "0 of 0"
        low, high = binomtest(self.count, self.total).proportion_ci(0.95, "exact")
        return f"{self.count} of {self.total}, {self.value:.1%} ({low:.1%} to {high:.1%})"


@dataclass(frozen=True, eq=False)
class FaultRun:
    """One task, or several.

    Attributes:
        lines: Of the log of ``faulty_policy``.
        commands: That went to the arm.
        dt: Seconds between the actions of a chunk.
        ended: In words.
        seconds: That it took, simulated.
    """

    lines: Sequence[dict[str, Any]]
    commands: Sequence[SentCommand]
    dt: float
    ended: str
    seconds: float

    @classmethod
    def read(cls, log: Path, commands: Sequence[SentCommand], dt: float, ended: str) -> "FaultRun":
        """Of a log that nobody writes any more."""
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        seconds = (lines[-1]["stamp"] - lines[0]["stamp"]) * 1e-9
        return cls(lines, commands, dt, ended, seconds)

    @classmethod
    def joined(cls, runs: Sequence["FaultRun"]) -> "FaultRun":
        """Several tasks, as if each had begun when the one before ended."""
        lines, commands, begin = [], [], 0.0
        for run in runs:
            first, last = (run.lines[i]["stamp"] * 1e-9 for i in (0, -1))
            shift = begin - first
            lines += [{**line, "stamp": line["stamp"] + round(shift * 1e9)} for line in run.lines]
            commands += [
                replace(command, stamped=command.stamped + shift)
                for command in run.commands
                if first <= command.stamped <= last
            ]
            begin += run.seconds
        ended = ", ".join(run.ended for run in runs)
        return cls(lines, commands, runs[0].dt, ended, begin)

    def stopped(self, *faults: str) -> Share:
        """Chunks with such faults, "" for none, whose energy was above the threshold.

        Of each observation the first that was drawn: others follow only where it was rejected.
        """
        energies = [
            line["drawn"][0]["energy"] > line["threshold"]
            for line in self.lines
            if line["drawn"][0]["fault"] in faults
        ]
        return Share(sum(energies), len(energies))

    def followed(self) -> Share:
        """Observations at which a chunk with a fault was sent and not rejected."""
        sent = [
            line["drawn"][line["sent"]]["fault"] != "" and line["verdict"] != Verdict.REJECTED
            for line in self.lines
        ]
        return Share(sum(sent), len(sent))

    def strayed(self) -> tuple[Floats, Floats]:
        """How far commands were from where the newest observation's good plan wanted them.

        Returns:
            (N,) seconds since the first observation, and (N,) rad, of the arm's joint that was
            farthest away.
        """
        stamps = np.array([line["stamp"] for line in self.lines]) * 1e-9
        plans = np.array([line["good"] for line in self.lines])[..., :ARM]
        offsets = self.dt * np.arange(1, plans.shape[1] + 1)
        times, far = [], []
        for command in self.commands:
            # The newest whose first action was due.
            newest = int(np.searchsorted(stamps + offsets[0], command.stamped, "right")) - 1
            age = command.stamped - stamps[newest]
            if newest < 0 or age > offsets[-1]:
                continue
            wanted = [np.interp(age, offsets, joint) for joint in plans[newest].T]
            times.append(command.stamped - stamps[0])
            far.append(np.abs(command.positions[:ARM] - wanted).max())
        return np.array(times), np.array(far)

    def __str__(self) -> str:
        _, far = self.strayed()
        middle, most = np.percentile(far, [50, 99])
        words = [
            f"{self.ended} after {self.seconds:.1f} s",
            f"faults followed {self.followed()}",
            f"commands {middle:.3f} rad from the good plan, 99 % within {most:.3f}, "
            f"all within {far.max():.3f}",
            f"above the threshold of noise {self.stopped('noise')}, "
            f"of motions {self.stopped('motion')}, of good ones {self.stopped('')}",
        ]
        return "; ".join(words)


def draw(unchecked: FaultRun, checked: FaultRun, file: Path) -> None:
    """Energies where the check was not obeyed and where it was, and how far commands strayed.

    Args:
        unchecked: Without the check, which only looked on.
        checked: With it.
        file: PNG to be.
    """
    figure = Figure(figsize=(9, 8), layout="constrained")
    rows = figure.subplots(3, sharex=True)
    above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "frameon": False, "ncols": 4}
    named = (
        (unchecked, "tab:red", "check off"),
        (checked, "tab:green", "check on"),
    )
    for axes, (run, _, name) in zip(rows, named, strict=False):
        _draw_energies(axes, run)
        axes.set_ylabel(f"energy, {name}")
    rows[0].legend(**above)
    for run, colour, name in named:
        rows[2].plot(*run.strayed(), color=colour, label=f"{name}: {run.ended}", linewidth=1)
    rows[2].set_ylabel("command from the good plan, rad")
    rows[2].set_xlabel("s")
    rows[2].legend(**above)
    figure.savefig(file, dpi=120)


def _draw_energies(axes: Axes, run: FaultRun) -> None:
    begin = run.lines[0]["stamp"]
    for fault, colour, marker, label in (
        ("", "tab:green", ".", "good"),
        ("noise", "tab:red", "x", "noise"),
        ("motion", "tab:purple", "+", "motion elsewhere"),
    ):
        places = [
            ((line["stamp"] - begin) * 1e-9, drawn["energy"])
            for line in run.lines
            for drawn in line["drawn"]
            if drawn["fault"] == fault
        ]
        axes.plot(*np.reshape(places, (-1, 2)).T, marker, color=colour, label=label)
    times = [(line["stamp"] - begin) * 1e-9 for line in run.lines]
    thresholds = [line["threshold"] for line in run.lines]
    axes.plot(times, thresholds, "k--", label="threshold")
