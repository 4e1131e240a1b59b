# SPDX-License-Identifier: Apache-2.0
"""States and actions of a dataset against those that the messages of a bag give."""

from collections.abc import Callable, Sequence

import numpy as np

from vla_nodes.contract.schema import Contract
from vla_nodes.observation.buffers import REORDER_NS
from vla_training.data.bags.bag import Bag
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding, graded
from vla_training.data.checks.joint_logs import (
    JointLog,
    Times,
    Values,
)
from vla_training.data.checks.joint_streams import action_streams, state_streams
from vla_training.data.errors import DataError
from vla_training.data.frames.actions import recorded_actions
from vla_training.data.schema import BAG_TIME
from vla_training.data.stamps import SECOND

_ULPS = 2  # of float32, in which the dataset keeps them
_LEAST = 1e-9  # rad or m: where a value passes zero, float32 has more digits than its terms


class ValueTally:
    """What comparing a column has found so far.

    Args:
        key: Of the column.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._compared = self._wrong = self._stale = 0
        self._largest, self._allowed, self._place = 0.0, 0.0, ""

    def add(
        self,
        found: Values,
        expected: Values,
        usable: np.ndarray,
        place: Callable[[int], str],
    ) -> None:
        """Compares the rows of an episode.

        Args:
            found: (T, S) float32 of the dataset.
            expected: (T, S) float64 of the bag, NaN where there is nothing.
            usable: (T, S) whether the messages are as young as the contract demands.
            place: Says in words where a row is.
        """
        allowed = _ULPS * np.spacing(np.abs(found)) + _LEAST
        off = np.abs(found.astype(np.float64) - expected)
        self._compared += off.size
        self._stale += int((~usable & ~np.isnan(off)).sum())
        self._wrong += int((~(off <= allowed)).sum())
        off = np.nan_to_num(off, nan=np.inf)
        row, column = np.unravel_index(np.argmax(off), off.shape)
        if off[row, column] > self._largest or not self._place:
            self._largest = float(off[row, column])
            self._allowed = float(allowed[row, column])
            self._place = f"value {column} at {place(int(row))}"

    def finding(self) -> Finding:
        """The result."""
        if not self._compared:
            return Finding("against", self.key, "fail", "nothing could be compared", 0)
        text = f"{self._compared} values compared, largest difference {self._largest:.3g}"
        text += f" in {self._place}"
        if self._wrong:
            text += f"; {self._wrong} are not those of the bag"
        elif self._stale:
            text += f"; {self._stale} are of messages farther away than max_age"
        level = graded(self._wrong or self._stale)
        return Finding("against", self.key, level, text, self._largest, self._allowed)


def compare_values(
    dataset: Dataset,
    part: slice,
    contract: Contract,
    bag: Bag,
    window: tuple[int, int],
    tallies: Sequence[ValueTally],
) -> None:
    """Compares the states and actions of one episode.

    Args:
        dataset: Its rows can be told apart by episode.
        part: Rows of the episode.
        contract: That it was made with.
        bag: That it was made from.
        window: Times of receipt to read, ns.
        tallies: Of the states and of the actions.

    Raises:
        DataError: The bag cannot be read, or its clock was set back meanwhile.
    """
    times = dataset.columns[BAG_TIME][part]
    ahead = _following(times, dataset.fps)
    states = [JointLog(stream, contract.timeline) for stream in state_streams(contract)]
    actions = [JointLog(stream, contract.timeline) for stream in action_streams(contract)]
    logs = [*states, *actions]
    for receive, topic, message in bag.messages({log.stream.topic for log in logs}, *window):
        for log in logs:
            if log.stream.topic == topic:
                log.add(receive, message)
    ages = [source.max_age for source in contract.states]
    cases = [(log, times, age) for log, age in zip(states, ages, strict=True)]
    commands = []
    for log, source in zip(actions, contract.actions, strict=True):
        recorded = recorded_actions(source)
        commands.append((log, ahead if recorded.sample == "next" else times, recorded.max_age))
    episodes, frames = dataset.columns["episode_index"][part], dataset.columns["frame_index"][part]
    for tally, column in zip(tallies, (cases, commands), strict=True):
        expected, usable = zip(*(_derive(*case) for case in column), strict=True)
        tally.add(
            dataset.columns[tally.key][part],
            np.concatenate(expected, axis=1),
            np.concatenate(usable, axis=1),
            lambda row: f"episode {episodes[row]} frame {frames[row]}",
        )


def _derive(log: JointLog, times: Times, max_age: float) -> tuple[Values, np.ndarray]:
    """Values at these times, and whether their messages are near enough."""
    stamps = log.stamps
    newest = np.maximum.accumulate(stamps) if len(stamps) else stamps
    if (newest - stamps >= REORDER_NS).any():
        raise DataError(f"the clock of {log.stream.topic} was set back in the recording")
    values, before, after = log.at(times)
    near = np.maximum(before, after) <= round(max_age * SECOND)
    return values, np.broadcast_to(near[:, None], values.shape)


def _following(times: Times, fps: int) -> Times:
    """The time of the frame after each; across a gap and at the end a frame's length on."""
    length = round(SECOND / fps)
    ahead = times + length
    follows = np.diff(times) <= length + 1
    ahead[:-1][follows] = times[1:][follows]
    return ahead
