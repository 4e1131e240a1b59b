# SPDX-License-Identifier: Apache-2.0
"""The look of every page of plots, and pages that are written whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from vla_nodes.display.joint_plot import DPI, FAINT, INK
from vla_nodes.display.style import GREY

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "text.parse_math": False,
    "figure.titlesize": 14,
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 10,
}


@contextmanager
def page(path: Path, width: float, height: float, *, by_hand: bool = False) -> Iterator[Figure]:
    """A page of that size in inches, in the style of all; it is written at the end, whole.

    Args:
        path: Of the PNG.
        width: In inches.
        height: In inches.
        by_hand: Leave all axes where they are put.

    Raises:
        OSError: The disk refuses.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout=None if by_hand else "constrained")
        yield figure
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            figure.savefig(aside, format="png", dpi=DPI)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
