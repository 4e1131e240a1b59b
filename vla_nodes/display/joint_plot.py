# SPDX-License-Identifier: Apache-2.0
"""What was commanded and what the joints did, joint by joint, on one page."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from vla_nodes.display.style import BLUE, GREY, ORANGE, figure, printable

SIZE = (1200, 1500)  # px, width and height
DPI = 100
LABEL_SIZE = 9  # pt, of the subtasks
LABEL_LINES = 3

INK = "#2b2f36"
FAINT = "#dfe2e7"

# Errors are small: units that have a handy thousandth are shown in it.
THOUSANDTHS = {"rad": "mrad", "m": "mm"}


@dataclass(frozen=True)
class JointRun:
    """Joint positions over a run of A joints; all times in seconds since its start.

    Attributes:
        joints: Names (A).
        units: ``rad``, ``m`` or another, one per joint (A).
        command_times: Of the commands (N,), not decreasing.
        commanded: Positions (N, A).
        measured_times: Of the measurements (M,), not decreasing.
        measured: Positions (M, A); NaN leaves a gap.
        lower: Position limits (A,).
        upper: Position limits (A,).
        subtasks: (time, text) of every change of subtask, in order.
        title: Of the page.

    Raises:
        ValueError: No joint, a shape does not fit, or times are not finite or decrease.
    """

    joints: Sequence[str]
    units: Sequence[str]
    command_times: np.ndarray
    commanded: np.ndarray
    measured_times: np.ndarray
    measured: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    subtasks: Sequence[tuple[float, str]] = ()
    title: str = ""

    def __post_init__(self) -> None:
        joints = len(self.joints)
        if not joints:
            raise ValueError("JointRun.joints is empty; it must name at least one joint")
        shapes = {
            "units": (joints,),
            "commanded": (len(self.command_times), joints),
            "measured": (len(self.measured_times), joints),
            "lower": (joints,),
            "upper": (joints,),
        }
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                found = np.shape(getattr(self, name))
                raise ValueError(f"JointRun.{name} has shape {found}; it must have {shape}")
        changes = [time for time, _ in self.subtasks]
        for name, times in (
            ("command_times", self.command_times),
            ("measured_times", self.measured_times),
            ("subtasks", np.array(changes, dtype=float)),
        ):
            if not np.isfinite(times).all() or (np.diff(times) < 0).any():
                raise ValueError(f"times of JointRun.{name} must be finite and must not decrease")


def tracking_error(run: JointRun) -> np.ndarray:
    """Commanded minus measured position at the measurements (M, A).

    The command is interpolated in between; NaN before the first and after the last.
    """
    if not len(run.command_times):
        return np.full(run.measured.shape, np.nan)
    expected = [
        np.interp(run.measured_times, run.command_times, column, left=np.nan, right=np.nan)
        for column in run.commanded.T
    ]
    return np.stack(expected, axis=-1) - run.measured


def plot_joints(run: JointRun, path: Path) -> None:
    """Write the page of ``draw_joints`` as a PNG of ``SIZE``; a file that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_joints(run).savefig(path, format="png", dpi=DPI)


def draw_joints(run: JointRun) -> Figure:
    """Draw one row per joint: positions to the left, the tracking error to the right."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    page = Figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), layout=layout)
    axes = page.subplots(len(run.joints), 2, sharex=True, squeeze=False, width_ratios=[2.4, 1])
    errors = tracking_error(run)
    for joint, (left, right) in enumerate(axes):
        for ax in (left, right):
            _plain(ax)
            for time, _ in run.subtasks:
                ax.axvline(time, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        _draw_positions(left, run, joint)
        _draw_error(right, run, joint, errors[:, joint])
    times = np.concatenate([run.command_times, run.measured_times])
    start, end = (times.min(), times.max()) if len(times) else (0.0, 1.0)
    axes[0, 0].set_xlim(start, max(end, start + 1e-3))
    for ax in axes[-1]:
        ax.set_xlabel("time (s)", color=INK)
    _label_subtasks(axes[0, 0], run.subtasks)
    _write_above(axes[0, 1], "tracking error (commanded - measured)", (0.0, 1.0), "axes fraction")
    page.align_ylabels(axes)
    _draw_heading(page, run)
    return page


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=INK, labelsize=9, color=GREY)
    ax.grid(color=FAINT, linewidth=0.7)
    ax.set_axisbelow(True)


def _draw_positions(ax: Axes, run: JointRun, joint: int) -> None:
    ax.plot(run.measured_times, run.measured[:, joint], color=ORANGE, linewidth=2.8)
    ax.plot(run.command_times, run.commanded[:, joint], color=BLUE, linewidth=1.1)
    lower, upper = float(run.lower[joint]), float(run.upper[joint])
    _widen(ax, 0.02 * (upper - lower))
    bottom, top = ax.get_ylim()
    for limit in (lower, upper):
        if bottom <= limit <= top:
            ax.axhline(limit, color=INK, linewidth=0.9, alpha=0.5)
    ax.set_ylabel(printable(run.units[joint], 12), color=INK, parse_math=False)
    name = printable(run.joints[joint], 60)
    ax.set_title(name, loc="left", fontsize=11, weight="bold", color=INK, parse_math=False)


def _draw_error(ax: Axes, run: JointRun, joint: int, error: np.ndarray) -> None:
    unit = run.units[joint]
    scale, unit = (1e3, THOUSANDTHS[unit]) if unit in THOUSANDTHS else (1.0, printable(unit, 12))
    known = scale * error[np.isfinite(error)]
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.plot(run.measured_times, scale * error, color=INK, linewidth=0.9)
    _widen(ax, 1e-3 * scale)
    greatest = np.abs(known).max() if len(known) else math.nan
    rms = np.sqrt(np.mean(known**2)) if len(known) else math.nan
    title = f"max {figure(greatest, '.2f')}   RMS {figure(rms, '.2f')} {unit}"
    ax.set_title(title, loc="right", fontsize=10, color=INK, parse_math=False)
    ax.set_ylabel(unit, color=INK, parse_math=False)


def _widen(ax: Axes, span: float) -> None:
    """Show at least that much of the y axis, so that noise does not look like motion."""
    bottom, top = ax.get_ylim()
    if top - bottom < span < math.inf:
        centre = (bottom + top) / 2
        ax.set_ylim(centre - span / 2, centre + span / 2)


def _label_subtasks(ax: Axes, subtasks: Sequence[tuple[float, str]]) -> None:
    """Write each subtask above the row, wrapped into the time until the next."""
    start, end = ax.get_xlim()
    per_second = 0.62 * SIZE[0] / (end - start)  # The axes' share of the page, about.
    letter = 0.6 * LABEL_SIZE * DPI / 72
    changes = [(max(time, start), text) for time, text in subtasks]
    ends = [time for time, _ in changes[1:]] + [end]
    for (time, text), until in zip(changes, ends, strict=True):
        letters = int((until - time) * per_second / letter)
        if time < end and letters >= 5:
            lines = textwrap.wrap(printable(text), letters, max_lines=LABEL_LINES, placeholder=" …")
            _write_above(ax, "\n".join(lines), (time, 1.0), ("data", "axes fraction"))


def _write_above(ax: Axes, text: str, at: tuple[float, float], coordinates: Any) -> None:
    """Write above the title of the first row."""
    ax.annotate(
        text,
        at,
        (2, 22),
        xycoords=coordinates,
        textcoords="offset points",
        fontsize=LABEL_SIZE,
        color=INK,
        parse_math=False,
        annotation_clip=False,
    )


def _draw_heading(page: Figure, run: JointRun) -> None:
    lines = [
        Line2D([], [], color=BLUE, linewidth=1.6, label="commanded"),
        Line2D([], [], color=ORANGE, linewidth=2.8, label="measured"),
        Line2D([], [], color=INK, linewidth=0.9, alpha=0.5, label="position limit"),
        Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label="subtask begins"),
    ]
    title = printable(run.title, 90)
    page.suptitle(title, fontsize=15, weight="bold", color=INK, parse_math=False)
    page.legend(
        handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=10
    )
