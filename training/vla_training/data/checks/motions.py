# SPDX-License-Identifier: Apache-2.0
"""Checks on joint values, of a bag or of a dataset: jumps, limits, standstill, idle actions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import JointLimits
from vla_training.data.checks.findings import Finding, Level, count, graded
from vla_training.data.checks.joint_logs import Times, Values

MOVED = 0.002  # rad or m from one sample to the next: more than the noise of an encoder
TRAVELLED = 0.05  # rad or m over a stretch: a motion that nobody overlooks
_STUCK_SECONDS = 2.0
_OUTSIDE = 0.01  # of the joint's range, which a joint held at its limit overshoots by
_IDLE = 0.9  # of the samples in motion


@dataclass(frozen=True)
class Motion:
    """Vectors in order of time.

    Attributes:
        subject: Topic or column.
        names: Of the values.
        values: (N, S).
        stamps: (N,) ns, strictly rising within a stretch.
        when: Says in words when or where a row is.
        limits: Of each value; None where the contract has none.
        begins: (N,) rows that do not continue the row before, such as an episode's first.
    """

    subject: str
    names: tuple[str, ...]
    values: Values
    stamps: Times
    when: Callable[[int], str]
    limits: Sequence[JointLimits | None]
    begins: npt.NDArray[np.bool_]

    @property
    def steps(self) -> Values:
        """(N, S) distance from the row before; 0 where a stretch begins."""
        steps = np.abs(np.diff(self.values, axis=0, prepend=self.values[:1]))
        steps[self.begins] = 0
        return steps

    @property
    def limited(self) -> list[tuple[int, str, JointLimits]]:
        """The values that have limits: index, name, limits."""
        named = zip(self.names, self.limits, strict=True)
        return [(i, name, limit) for i, (name, limit) in enumerate(named) if limit]


def check_jumps(motion: Motion, factor: float, level: Level) -> Iterator[Finding]:
    """No joint moves faster than ``factor`` times its velocity limit.

    Args:
        motion: What to check.
        factor: Of the velocity limit.
        level: Of a joint that does.
    """
    seconds = np.diff(motion.stamps, prepend=motion.stamps[:1]) * 1e-9
    going = ~motion.begins & (seconds > 0)
    # Stamps that jitter make a short step of a smooth motion look fast.
    seconds = np.maximum(seconds, np.median(seconds[going]) if going.any() else 1.0)
    fast, fastest = False, 0.0
    for i, name, limit in motion.limited:
        speeds = motion.steps[:, i] / seconds / limit.velocity
        row = int(np.argmax(speeds))
        speed = float(speeds[row])
        fastest = max(fastest, speed)
        if speed > factor:
            fast = True
            text = (
                f"{name} jumps {count(int((speeds > factor).sum()), 'time')}, by "
                f"{motion.steps[row, i]:.3f} at {motion.when(row)}: "
                f"{speed:.1f} times its velocity limit"
            )
            yield Finding("jump", motion.subject, level, text, speed, factor)
    if motion.limited and not fast:
        text = f"at most {fastest:.2f} times the velocity limit"
        yield Finding("jump", motion.subject, "ok", text, fastest, factor)


def check_limits(motion: Motion) -> Iterator[Finding]:
    """Every position is within the contract's limits.

    A value outside by more than the width of its range points at another unit or another zero,
    and fails.
    """
    inside = True
    for i, name, limit in motion.limited:
        values, width = motion.values[:, i], limit.upper - limit.lower
        outside = np.maximum(limit.lower - values, values - limit.upper)
        row = int(np.argmax(outside))
        if outside[row] <= _OUTSIDE * width:
            continue
        inside = False
        over = outside > _OUTSIDE * width
        text = (
            f"{name} is outside [{limit.lower:g}, {limit.upper:g}] in {over.mean():.1%} of the "
            f"samples, at worst {values[row]:.3f} at {motion.when(row)}"
        )
        far = bool(outside[row] > width)
        if far:
            text += "; is its unit or its zero another one?"
        bound = limit.lower if values[row] < limit.lower else limit.upper
        yield Finding("limits", motion.subject, graded(far, True), text, float(values[row]), bound)
    if motion.limited and inside:
        yield Finding("limits", motion.subject, "ok", "every joint within its limits")


def check_standstill(motion: Motion) -> Iterator[Finding]:
    """No joint rests from beginning to end while another moves."""
    reach = np.ptp(motion.values, axis=0)
    if not len(reach) or reach.max() <= TRAVELLED:
        yield Finding("still", motion.subject, "warn", "nothing moves from beginning to end")
        return
    resting = [name for name, r in zip(motion.names, reach, strict=True) if r <= MOVED]
    if resting:
        text = f"{', '.join(resting)} never moves while others do"
        yield Finding("still", motion.subject, "warn", text, len(resting), 0)
    else:
        yield Finding("still", motion.subject, "ok", "every joint moves", 0, 0)


def check_stuck(motion: Motion, actions: Values) -> Iterator[Finding]:
    """Measured values do not stay the same bit for bit, least of all while actions move.

    Args:
        motion: What was measured.
        actions: (N, A) at the same times; NaN where there are none.
    """
    same = (motion.steps == 0).all(axis=1) & ~motion.begins
    stretches = []
    for first, last in runs(same):
        seconds = float(motion.stamps[last - 1] - motion.stamps[first - 1]) * 1e-9
        if seconds > _STUCK_SECONDS:
            during = actions[first - 1 : last]
            commanded = during[~np.isnan(during).any(axis=1)]
            ignored = len(commanded) > 0 and np.ptp(commanded, axis=0).max() > TRAVELLED
            stretches.append((bool(ignored), seconds, first - 1))
    if not stretches:
        text = f"values change within {_STUCK_SECONDS:g} s"
        yield Finding("stuck", motion.subject, "ok", text, 0.0, _STUCK_SECONDS)
        return
    ignored, seconds, row = max(stretches)
    text = f"every value stays the same bit for bit for {seconds:.1f} s from {motion.when(row)}"
    text += " while the actions move" if ignored else ": a robot at rest, or a driver that hangs"
    yield Finding("stuck", motion.subject, graded(ignored, True), text, seconds, _STUCK_SECONDS)


def check_idle(subject: str, names: Sequence[str], actions: Values, measured: Values) -> Finding:
    """The action leads the measured position; the same values teach standing still.

    Args:
        subject: Topic or column of the actions.
        names: Of the actions.
        actions: (N, A).
        measured: (N, A) positions of the same joints at the same times.
    """
    moving = np.abs(np.diff(measured, axis=0)) > MOVED
    equal = np.abs(actions - measured)[1:] <= 1e-6
    shares = (moving & equal).sum(axis=0) / np.maximum(moving.sum(axis=0), 1)
    idle = [name for name, share in zip(names, shares, strict=True) if share > _IDLE]
    share = float(shares.max(initial=0.0))
    if idle:
        text = (
            f"the action of {', '.join(idle)} is its measured position: it teaches standing still"
        )
        return Finding("idle", subject, "warn", text, share, _IDLE)
    return Finding("idle", subject, "ok", "actions differ from measured positions", share, _IDLE)


def runs(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Stretches of True as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
