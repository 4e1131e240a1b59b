# SPDX-License-Identifier: Apache-2.0
"""Energies of expert chunks and of others, and the thresholds between them, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from vla_nodes.display.joint_plot import INK
from vla_nodes.display.style import BLUE, GREY, ORANGE
from vla_training import plot_pages

_BINS = 100
_BEYOND = 0.001  # share at either end that may lie beyond the page


def plot_energies(
    path: Path,
    energies: Mapping[str, NDArray[np.floating]],
    rejected: Mapping[str, float],
    pooled: float,
    of_tasks: Sequence[float],
) -> None:
    """Draws a histogram of each kind of chunks, one below the other, and the thresholds.

    Args:
        path: Of the PNG.
        energies: By kind, one or more each; those of the expert come first.
        rejected: By kind, the share above the threshold of its task.
        pooled: Threshold of all tasks together.
        of_tasks: Thresholds of tasks.

    Raises:
        OSError: The disk refuses.
    """
    ends = np.quantile(np.concatenate(list(energies.values())), [_BEYOND, 1 - _BEYOND])
    shown = [*ends, pooled, *of_tasks]
    bins = np.linspace(min(shown), max(shown), _BINS + 1)
    with plot_pages.page(path, 9.0, 1.4 + 0.7 * len(energies)) as page:
        page.suptitle("Energies of chunks in the frames of the test part")
        rows = page.subplots(len(energies), sharex=True, squeeze=False)[:, 0]
        for ax, (kind, found) in zip(rows, energies.items(), strict=True):
            ax.hist(found, bins, color=BLUE if ax is rows[0] else ORANGE)
            for energy in of_tasks:
                ax.axvline(energy, color=GREY, linewidth=0.8)
            ax.axvline(pooled, color=INK, linewidth=1.6)
            ax.set_yticks([])
            ax.spines["left"].set_visible(False)
            ax.set_ylabel(kind, rotation=0, ha="right", va="center")
            share = f"{rejected[kind]:.1%}\nrejected"
            ax.text(1.01, 0.5, share, fontsize=9, transform=ax.transAxes, va="center")
        rows[-1].set_xlabel("energy")
        handles = [
            Patch(color=BLUE, label="expert chunks"),
            Patch(color=ORANGE, label="others"),
            Line2D([], [], color=INK, linewidth=1.6, label="threshold of all tasks"),
        ]
        if of_tasks:
            handles.append(Line2D([], [], color=GREY, linewidth=0.8, label="of a task"))
        page.legend(handles=handles, loc="outside lower center", ncols=len(handles))
