# SPDX-License-Identifier: Apache-2.0
"""The value estimate in the Rerun viewer, which is optional: https://rerun.io."""

import importlib
from typing import Any

import numpy as np

from vla_nodes.display.style import figure, printable
from vla_nodes.display.watch_terminal import WatchView

TIMELINE = "stamp"


class RerunMissingError(RuntimeError):
    """Rerun's library is not there, or is too old."""


class RerunView:
    """Starts a viewer and fills it.

    Raises:
        RerunMissingError: The library cannot be used.
    """

    def __init__(self) -> None:
        self._rerun = _load()
        self._rerun.init("vla-watch", spawn=True)
        self._said = ""

    def show(self, view: WatchView, stamp: float) -> None:
        """Log an estimate; ``stamp`` is the observation's, in seconds."""
        rerun = self._rerun
        rerun.set_time(TIMELINE, timestamp=stamp)
        numbers = {
            "value/expectation": view.value,
            "value/subtask": view.subtask_value,
            **{f"value/quantile_{100 * level:.0f}": at for level, at in view.quantiles.items()},
            "trend": view.trend,
            "energy": view.energy,
            "entropy": view.entropy,
        }
        for path, number in numbers.items():
            if np.isfinite(number):
                rerun.log(path, rerun.Scalars(number))
        if len(view.probabilities):
            rerun.log("distribution", rerun.BarChart(view.probabilities))
        said = f"{view.state}: {printable(view.subtask or view.task)}"
        if said != self._said:
            self._said = said
            rerun.log("events", rerun.TextLog(f"{said} ({figure(view.value, 'z.2f')})"))

    def show_picture(self, name: str, picture: np.ndarray, stamp: float) -> None:
        """Log a picture (H, W, 3) uint8 RGB as ``name``; ``stamp`` is its own, in seconds."""
        self._rerun.set_time(TIMELINE, timestamp=stamp)
        self._rerun.log(name, self._rerun.Image(picture))


def _load() -> Any:
    """Rerun's library; by name, so that nothing else here needs it."""
    try:
        rerun = importlib.import_module("rerun")
    except ImportError as error:
        raise RerunMissingError(
            f"Rerun cannot be imported ({error}); install it: pip install rerun-sdk"
        ) from error
    if not hasattr(rerun, "set_time") or not hasattr(rerun, "Scalars"):
        found = getattr(rerun, "__version__", "unknown")
        raise RerunMissingError(
            f"Rerun {found} is too old; install 0.23 or later: pip install -U rerun-sdk"
        )
    return rerun
