# SPDX-License-Identifier: Apache-2.0
"""Chunks of future actions: what a policy offers, and what may be followed of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_nodes.control.parameters import Floats, Joints


class Reason(StrEnum):
    """Why a chunk is not followed."""

    NO_LEASE = "no lease"
    WRONG_GOAL = "wrong goal"
    REJECTED = "rejected by the energy model"
    MALFORMED = "malformed"
    FUTURE = "from the future"
    TOO_OLD = "observation too old"
    PAST = "wholly past"
    OUT_OF_ORDER = "out of order"
    DUPLICATE = "duplicate"
    NOT_MEASURED = "no measured position"
    FAR = "too far from the command"


@dataclass(frozen=True)
class Refusal:
    """A chunk that is not followed.

    Attributes:
        reason: Of a few, to be counted.
        text: What was found and what would be right.
    """

    reason: Reason
    text: str


@dataclass(frozen=True)
class OfferedChunk:
    """A chunk as it arrives, nothing checked.

    Attributes:
        stamp_ns: Of the observation, ROS time.
        goal: That the chunk serves.
        sequence: Number of the chunk.
        joints: Names, in the order of the columns of ``positions``.
        positions: (T, A) targets, or offsets from the measured positions at the stamp.
        due_ns: (T,) when each row is due, ROS time.
        relative: Whether positions are offsets; those of grippers never are.
        rejected: Whether the energy model rejected it.
    """

    stamp_ns: int
    goal: int
    sequence: int
    joints: Sequence[str]
    positions: ArrayLike
    due_ns: ArrayLike
    relative: bool = False
    rejected: bool = False


@dataclass(frozen=True)
class TimedChunk:
    """A well-formed chunk.

    Attributes:
        stamp_ns: Of the observation, ROS time.
        goal: That the chunk serves.
        sequence: Number of the chunk.
        targets: (T, A) in the contract's order, finite; T >= 2.
        due_ns: (T,) strictly increasing and after the stamp.
        relative: Whether targets are offsets; those of grippers never are.
    """

    stamp_ns: int
    goal: int
    sequence: int
    targets: Floats
    due_ns: NDArray[np.int64]
    relative: bool


def check_chunk(offered: OfferedChunk, joints: Joints, max_horizon: float) -> TimedChunk | Refusal:
    """Check the form of a chunk and bring its joints into the contract's order.

    Args:
        offered: As it arrived.
        joints: Of the contract.
        max_horizon: Seconds that the last target may lie after the observation.
    """
    try:
        order = _joint_order(offered.joints, joints.names)
        due_ns = _due_times(offered, joints.dt, max_horizon)
        targets = _numbers(offered.positions, "positions", "fiu").astype(np.float64)
    except ValueError as error:
        return Refusal(Reason.MALFORMED, str(error))
    expected = (len(due_ns), len(order))
    if targets.shape != expected:
        text = f"positions have shape {targets.shape}; expected {expected}"
        return Refusal(Reason.MALFORMED, text)
    targets = targets[:, order]
    if not np.isfinite(targets).all():
        row, column = np.argwhere(~np.isfinite(targets))[0]
        text = (
            f"target {row} of {joints.names[column]} is {targets[row, column]}; expected a number"
        )
        return Refusal(Reason.MALFORMED, text)
    return TimedChunk(
        stamp_ns=int(offered.stamp_ns),
        goal=int(offered.goal),
        sequence=int(offered.sequence),
        targets=targets,
        due_ns=due_ns,
        relative=bool(offered.relative),
    )


def resolve_targets(
    chunk: TimedChunk, joints: Joints, measured: Floats | None, held: Floats
) -> tuple[Floats, Floats]:
    """What a chunk asks of each joint: offsets added, grippers switched, limits kept.

    Args:
        chunk: Well-formed.
        joints: Of the contract.
        measured: (A,) positions at the observation; needed where the chunk is relative.
        held: (A,) where the joints are sent now; a gripper in its dead band keeps to that.

    Returns:
        Targets (T, A) within the limits, and how far (T, A) each one had been outside.
    """
    targets = chunk.targets.copy()
    if chunk.relative:
        if measured is None:
            raise ValueError("a relative chunk needs the measured positions at its observation")
        targets += np.where(joints.follows, measured, 0.0)
    for i, gripper in enumerate(joints.grippers):
        if gripper is None:
            continue
        choice = min(gripper.low, gripper.high, key=lambda end: abs(end - held[i]))
        for row, target in enumerate(targets[:, i]):
            if target > gripper.threshold + gripper.hysteresis:
                choice = gripper.high
            elif target < gripper.threshold - gripper.hysteresis:
                choice = gripper.low
            targets[row, i] = choice
    within = np.clip(targets, joints.lower, joints.upper)
    return within, np.abs(targets - within)


def _joint_order(found: Sequence[str], expected: tuple[str, ...]) -> list[int]:
    """Column of each expected joint."""
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} joints; expected {len(expected)}: {', '.join(expected)}")
    if missing := [name for name in expected if name not in found]:
        raise ValueError(f"joints {missing} are missing; expected {', '.join(expected)}")
    return [found.index(name) for name in expected]


def _due_times(offered: OfferedChunk, dt: float, max_horizon: float) -> NDArray[np.int64]:
    """Due times (T,) that increase by about ``dt`` and end within the horizon."""
    due = _numbers(offered.due_ns, "due times", "iu")
    if due.ndim != 1 or len(due) < 2:
        raise ValueError(f"due times have shape {due.shape}; expected two or more in a row")
    # Python's integers: differences of absurd times must not wrap around.
    times = [int(offered.stamp_ns), *due.tolist()]
    if times[-1] - times[0] > max_horizon * 1e9 or times[-1] >= 2**63:
        raise ValueError(f"the last target is due {times[-1] - times[0]} ns after the observation")
    if times[1] <= times[0]:
        raise ValueError(f"the first target is due {times[0] - times[1]} ns before the observation")
    for i in range(1, len(due)):
        step = (times[i + 1] - times[i]) * 1e-9
        if not 0.5 * dt <= step <= 1.5 * dt:
            raise ValueError(f"target {i} is due {step:.6f} s after the last; expected {dt:.6f}")
    return due.astype(np.int64)


def _numbers(values: ArrayLike, what: str, kinds: str) -> NDArray:
    """An array of numbers of certain numpy kinds."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{what} are no array: {error}") from None
    if array.dtype.kind not in kinds:
        raise ValueError(f"{what} have dtype {array.dtype}; expected numbers")
    return array
