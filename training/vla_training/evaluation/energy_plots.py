# SPDX-License-Identifier: Apache-2.0
"""Energy models side by side as pictures: areas, energies, and choices among samples."""

import math
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from vla_nodes.display.joint_plot import INK
from vla_nodes.display.style import BLUE, GREEN, GREY, ORANGE, RED, SKY, printable
from vla_training.evaluation.energy_evaluation import SampleResults
from vla_training.evaluation.energy_separation import ScoredFrames, Separation
from vla_training.plot_pages import page

COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", RED, SKY, "#7a5195", INK)
"""One for each energy model."""

_PANELS = 3  # of energies, in a row


def plot_areas(path: Path, total: Mapping[str, Mapping[str, Separation]]) -> None:
    """Draws the area under the ROC curve for every kind of negative.

    Args:
        path: Of the PNG.
        total: By energy model, then by kind.
    """
    kinds = list(next(iter(total.values())))
    height = 1.9 + len(kinds) * (0.22 + 0.11 * len(total))
    with page(path, 9.0, height) as sheet:
        axes = sheet.subplots()
        axes.set_title("Share of pairs in which a chunk that is not the expert's has more energy")
        for place, (colour, separations) in enumerate(zip(COLOURS, total.values(), strict=False)):
            for row, kind in enumerate(kinds):
                one = separations[kind]
                if one.auroc is None or one.same_frame is None:
                    continue
                y = row + (place - (len(total) - 1) / 2) * 0.7 / len(total)
                if one.interval:
                    axes.plot(one.interval, (y, y), color=colour, linewidth=1.4)
                axes.plot(one.auroc, y, "o", color=colour, markersize=6)
                axes.plot(one.same_frame, y, "|", color=colour, markersize=9, markeredgewidth=2)
        axes.axvline(0.5, color=INK, linewidth=0.8)
        _name_rows(axes, kinds)
        axes.set_xlim(right=1.01)
        axes.set_xlabel("of all frames: dot, with 95 % over episodes; of the same frame: bar")
        _name_models(axes, list(total))


def plot_energies(path: Path, scored: Mapping[str, ScoredFrames]) -> None:
    """Draws where the energies of the expert's chunks lie, and those of every kind of negative.

    Args:
        path: Of the PNG.
        scored: By energy model.
    """
    kinds = list(next(iter(scored.values())).negatives)
    columns = min(_PANELS, len(scored))
    rows = math.ceil(len(scored) / columns)
    with page(path, 3.2 + 3.2 * columns, 0.8 + rows * (1.1 + 0.28 * len(kinds))) as sheet:
        sheet.suptitle("Energies of the expert's chunks, and of others")
        panels = sheet.subplots(rows, columns, squeeze=False, sharey=True).flatten().tolist()
        for unused in panels[len(scored) :]:
            unused.set_visible(False)
        for axes, (name, frames) in zip(panels, scored.items(), strict=False):
            _draw_energies(axes, frames)
            _name_rows(axes, ["expert", *kinds])
            axes.set_title(printable(name, 40))
            axes.set_xlabel("energy")
        handles = [
            Line2D([], [], color=BLUE, linewidth=1.2, label="from 5 to 95 %"),
            Line2D([], [], color=BLUE, linewidth=5, label="from 25 to 75 %"),
            Line2D([], [], color=INK, marker="|", markersize=9, linewidth=0, label="median"),
        ]
        sheet.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def plot_samples(path: Path, samples: SampleResults) -> None:
    """Draws the error of what is taken among K samples, and how energies put samples in order.

    Args:
        path: Of the PNG.
        samples: What came out.
    """
    with page(path, 11.0, 4.8) as sheet:
        errors, ranks = sheet.subplots(1, 2, width_ratios=[1.5, 1])
        lines = [
            *zip(samples.chosen, samples.chosen.values(), COLOURS, repeat("-"), strict=False),
            ("mean of samples", samples.mean, GREY, (0, (5, 2))),
            ("best sample", samples.best, GREY, (0, (1.5, 1.5))),
        ]
        for name, figures, colour, style in lines:
            counts, values = [one.count for one in figures], [one.rms for one in figures]
            label = printable(name, 40)
            errors.plot(counts, values, color=colour, linestyle=style, marker="o", label=label)
        errors.set_title("RMS error of the chunk that is taken, normalised")
        errors.set_xlabel("samples to choose from, K")
        errors.set_xscale("log", base=2)
        errors.set_xticks(counts, list(map(str, counts)), minor=False)
        errors.set_ylim(bottom=0.0)
        handles, labels = errors.get_legend_handles_labels()
        sheet.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
        ranks.set_title("Rank correlation of energy and error")
        found = zip(samples.correlations.values(), COLOURS, strict=False)
        for row, (one, colour) in enumerate(found):
            if one.interval:
                ranks.plot(one.interval, (row, row), color=colour, linewidth=1.6)
            if one.within is not None:
                ranks.plot(one.within, row, "o", color=colour, markersize=7)
        ranks.axvline(0.0, color=INK, linewidth=0.8)
        ranks.set_xlabel("within a frame, with 95 % over episodes")
        _name_rows(ranks, [printable(name, 30) for name in samples.correlations])


def _draw_energies(axes: Axes, frames: ScoredFrames) -> None:
    for row, energies in enumerate([frames.expert, *frames.negatives.values()]):
        known = energies[~np.isnan(energies)]
        if not known.size:
            continue
        low, lower, middle, upper, high = np.quantile(known, (0.05, 0.25, 0.5, 0.75, 0.95))
        colour = GREEN if row == 0 else BLUE
        axes.plot((low, high), (row, row), color=colour, linewidth=1.2)
        axes.plot((lower, upper), (row, row), color=colour, linewidth=5, solid_capstyle="butt")
        axes.plot(middle, row, "|", color=INK, markersize=9, markeredgewidth=1.6)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """The first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _name_models(axes: Axes, names: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=colour, marker="o", linewidth=1.4, label=printable(name, 40))
        for colour, name in zip(COLOURS, names, strict=False)
    ]
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
