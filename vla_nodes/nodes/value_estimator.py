# SPDX-License-Identifier: Apache-2.0
"""From observations to estimates: the value function, its earlier frames, and the events."""

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_nodes.inference.value_runtime import Features, ValueRuntime
from vla_nodes.monitoring.frame_history import FrameHistory
from vla_nodes.monitoring.value_events import Events, EventSettings, ValueEvents
from vla_nodes.monitoring.value_reading import Reading, read_value
from vla_nodes.observation.observation import Observation


@dataclass(frozen=True)
class Estimate:
    """How far a task has come.

    Attributes:
        probabilities: (201,), of the values from -1 to 0.
        reading: What they say.
        subtask_value: Of the subtask's own text; NaN without one.
        events: Of all estimates so far.
        seconds: That the value function took.
    """

    probabilities: npt.NDArray[np.float32]
    reading: Reading
    subtask_value: float
    events: Events
    seconds: float


class ValueEstimator:
    """Estimates one task at a time; another one begins with no earlier frames.

    Args:
        runtime: The value function.
        settings: When a value counts as what.
        levels: Of the quantiles.
    """

    def __init__(
        self, runtime: ValueRuntime, settings: EventSettings, levels: tuple[float, ...]
    ) -> None:
        self._runtime = runtime
        self._levels = levels
        self._events = ValueEvents(settings)
        self._watched = (0, "")
        config = runtime.checkpoint.config
        self._frames: dict[str, FrameHistory[Features]] = {
            name: FrameHistory(config.history, config.history_step) for name in runtime.cameras
        }

    def estimate(self, observation: Observation, goal: int, task: str, subtask: str) -> Estimate:
        """Looks at the pictures of an observation.

        Args:
            observation: With every camera of the value function.
            goal: Number of the goal.
            task: In plain words.
            subtask: In plain words; empty for none.

        Raises:
            ValueError: A text, or a picture, cannot be read.
            RuntimeError: The value function failed.
        """
        if (goal, task) != self._watched:
            self._watched = (goal, task)
            for frames in self._frames.values():
                frames.clear()
        began = time.monotonic()
        encoded = self._runtime.encode([observation.images[name] for name in self._frames])
        for frames, features in zip(self._frames.values(), encoded, strict=True):
            frames.add(observation.stamp, features)
        views = {name: frames.frames() for name, frames in self._frames.items()}
        distributions = self._runtime.estimate(views, [task, *filter(None, [subtask])])
        seconds = time.monotonic() - began
        reading = read_value(distributions[0], self._levels)
        subtask_value = read_value(distributions[1], ()).value if subtask else math.nan
        now = observation.stamp * 1e-9
        events = self._events.update(goal, subtask, now, reading.value, subtask_value)
        return Estimate(distributions[0], reading, subtask_value, events, seconds)


def estimate_period(rate: float, history: int, history_step: float) -> float:
    """Seconds between estimates: a part of the step between frames of a history, where it can be.

    So the earlier frames lie where those of training lay, and were encoded at their time.

    Args:
        rate: Greatest number of estimates per second, Hz.
        history: Frames of each camera.
        history_step: Seconds between them.
    """
    estimates = math.floor(history_step * rate + 1e-9) if history > 1 else 0
    return history_step / estimates if estimates else 1.0 / rate
