# SPDX-License-Identifier: Apache-2.0
"""Joint values of a whole recording as arrays, read straight from its messages.

The observation buffers of the live nodes are left out of this on purpose: a check that shares
their code could not find their faults.
"""

import math
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_nodes.contract.actions import FLOAT64_MULTI_ARRAY, JOINT_TRAJECTORY
from vla_nodes.contract.streams import JOINT_STATE
from vla_nodes.observation.buffers import FUTURE_NS
from vla_training.data.checks.joint_streams import JointStream
from vla_training.data.stamps import message_stamp

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class JointsError(ValueError):
    """A message without the joint values that it should have."""


class JointLog:
    """The values of one stream, message by message in order of receipt.

    A message without the values that it should have is counted and left out.

    Args:
        stream: What to read.
        timeline: Of the contract. A message without header is always dated by its receipt.

    Attributes:
        faults: By what was wrong: how often, and the first time of receipt.
    """

    def __init__(self, stream: JointStream, timeline: str) -> None:
        self.stream = stream
        self.faults: dict[str, tuple[int, int]] = {}
        self._by_receipt = timeline == "receive"
        self._receive, self._stamp, self._values = array("q"), array("q"), array("d")
        self._points: list[tuple[Times, Values]] = []  # of each JointTrajectory

    def add(self, receive: int, message: Any) -> None:
        """Takes one message in."""
        try:
            offsets, values = _read(self.stream, message)
        except JointsError as fault:
            number, first = self.faults.get(str(fault), (0, receive))
            self.faults[str(fault)] = (number + 1, first)
            return
        stamp = None if self._by_receipt else message_stamp(message)
        if stamp == 0 and self.stream.type == JOINT_TRAJECTORY:
            stamp = None  # a trajectory without a stamp starts when it arrives
        self._receive.append(receive)
        self._stamp.append(receive if stamp is None else stamp)
        self._values.extend(values[0])
        if self.stream.type == JOINT_TRAJECTORY:
            self._points.append((offsets, values))

    def __len__(self) -> int:
        """How many messages were read."""
        return len(self._stamp)

    @property
    def values(self) -> Values:
        """(N, S); of a ``JointTrajectory`` the first point."""
        return np.frombuffer(self._values).reshape(len(self), len(self.stream.value_names))

    @property
    def stamps(self) -> Times:
        """(N,) ns on the contract's timeline."""
        return np.frombuffer(self._stamp, np.int64)

    @property
    def in_order(self) -> npt.NDArray[np.intp]:
        """(M,) indices of the messages whose stamps can be believed, strictly rising."""
        return in_order(self.stamps, np.frombuffer(self._receive, np.int64))

    @property
    def ends(self) -> Times:
        """(N,) ns: up to when each message tells something; a trajectory up to its last point."""
        if self.stream.type != JOINT_TRAJECTORY:
            return self.stamps
        return self.stamps + np.array([offsets[-1] for offsets, _ in self._points], np.int64)

    def at(self, times: Times) -> tuple[Values, Times, Times]:
        """Values at these times: interpolated between joint states, else the newest not after.

        Returns:
            (T, S) values, NaN where there are none; (T,) ns since the sample before, of a
            trajectory since its end; (T,) ns to the sample after, 0 for what is not interpolated.
        """
        kept = self.in_order
        stamps, values = self.stamps[kept], self.values[kept]
        before = np.searchsorted(stamps, times, side="right") - 1
        found = before >= 0
        if self.stream.type == JOINT_STATE and len(stamps):
            exact = found & (stamps[before] == times)
            after = np.where(exact, before, before + 1)
            found &= after < len(stamps)
        else:
            after = before
        before, after = np.where(found, before, 0), np.where(found, after, 0)
        if not found.any():
            nothing = np.zeros(len(times), np.int64)
            return np.full((len(times), len(self.stream.value_names)), np.nan), nothing, nothing
        age = times - stamps[before]
        if self.stream.type == JOINT_TRAJECTORY:
            points = [self._points[i] for i in kept[before]]
            result = np.stack([_along(p, t) for p, t in zip(points, age, strict=True)])
            age = np.maximum(times - self.ends[kept][before], 0)
        else:
            span = stamps[after] - stamps[before]
            share = age / np.maximum(span, 1) * (span > 0)
            result = values[before] + (values[after] - values[before]) * share[:, None]
        result[~found] = np.nan
        ahead = stamps[after] - times if self.stream.type == JOINT_STATE else np.zeros_like(age)
        return result, age, ahead


def in_order(stamps: Times, receives: Times) -> npt.NDArray[np.intp]:
    """Indices of samples whose stamps are set, not in the future and after all before them."""
    sane = np.flatnonzero((stamps > 0) & (stamps <= receives + FUTURE_NS))
    newest = np.maximum.accumulate(np.concatenate([[0], stamps[sane]]))[:-1]
    return sane[stamps[sane] > newest]


def _along(points: tuple[Times, Values], elapsed: np.int64) -> Values:
    """A trajectory at a time since its stamp; its first and last point hold outside."""
    offsets, values = points
    place = np.clip(elapsed, offsets[0], offsets[-1])
    after = min(int(np.searchsorted(offsets, place, side="right")), len(offsets) - 1)
    before = max(after - 1, 0)
    span = offsets[after] - offsets[before]
    share = (place - offsets[before]) / span if span else 0.0
    return values[before] + (values[after] - values[before]) * share


def _read(stream: JointStream, message: Any) -> tuple[Times, Values]:
    """Times from the message's stamp, ns, and the values at each, one row a time."""
    if stream.type == FLOAT64_MULTI_ARRAY:
        values = _checked("value", message.data, stream.joints, stream.joints)
        return np.zeros(1, np.int64), _in_radians(stream, values[None])
    if stream.type == JOINT_TRAJECTORY:
        offsets, rows = _read_points(stream, message)
        return offsets, _in_radians(stream, rows)
    fields = [
        _checked(field, getattr(message, field), message.name, stream.joints)
        for field in stream.fields
    ]
    return np.zeros(1, np.int64), _in_radians(stream, np.concatenate(fields)[None])


def _read_points(stream: JointStream, message: Any) -> tuple[Times, Values]:
    if not message.points:
        raise JointsError("a trajectory has no points")
    names = message.joint_names
    rows = [_checked("position", p.positions, names, stream.joints) for p in message.points]
    durations = [point.time_from_start for point in message.points]
    offsets = np.array([d.sec * 1_000_000_000 + d.nanosec for d in durations], np.int64)
    if (np.diff(offsets) <= 0).any():
        raise JointsError("the times of a trajectory's points do not rise")
    return offsets, np.stack(rows)


def _checked(field: str, values: Any, names: Any, joints: tuple[str, ...]) -> Values:
    """The joints' values in the contract's order."""
    if len(values) != len(names):
        raise JointsError(f"{field} has {len(values)} values for {len(names)} joints")
    found = dict(zip(names, values, strict=True))
    for joint in joints:
        if joint not in found:
            raise JointsError(f"joint {joint} is missing")
        if not math.isfinite(found[joint]):
            raise JointsError(f"{field} of joint {joint} is not a finite number")
    if len(found) < len(names):
        raise JointsError("a joint is in the message twice")
    return np.array([found[joint] for joint in joints], np.float64)


def _in_radians(stream: JointStream, rows: Values) -> Values:
    if stream.units != "deg":
        return rows
    scale = [1.0 if f == "effort" else math.pi / 180 for f in stream.fields for _ in stream.joints]
    return rows * np.array(scale)
