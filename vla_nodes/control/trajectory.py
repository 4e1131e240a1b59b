# SPDX-License-Identifier: Apache-2.0
"""The reference: a chunk's targets as a smooth motion that begins at the present command.

Between targets runs a cubic Hermite spline whose velocities are those of the parabola
through three neighbours, limited as in Fritsch and Carlson, "Monotone Piecewise Cubic
Interpolation" (SIAM J. Numer. Anal. 17, 1980), so that it stays between its targets.

A new chunk takes over by the clock. What the command differs from it at that moment, in
position and velocity, is added as an offset that a cubic takes to zero (Bollo,
"Inertialization: High-Performance Animation Transitions", GDC 2018). The reference is thus
continuous in position and velocity whatever the old chunk was, and if the old one still
blended, ran out or was braked off, no second chunk has to be kept.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from vla_nodes.control.parameters import Floats


def knot_velocities(times: Floats, targets: Floats) -> Floats:
    """Velocities (T, A) at targets (T, A) due at ``times`` (T,) seconds, T >= 2."""
    spans = np.diff(times)[:, None]
    slopes = np.diff(targets, axis=0) / spans
    before, after = slopes[:-1], slopes[1:]
    parabola = (spans[1:] * before + spans[:-1] * after) / (spans[1:] + spans[:-1])
    bound = np.where(before * after > 0, 3 * np.minimum(np.abs(before), np.abs(after)), 0.0)
    return np.concatenate([slopes[:1], np.clip(parabola, -bound, bound), slopes[-1:]])


def _fill_weights(weights: Floats, s: float, span: float) -> None:
    """Fill what start p, start v, end p and end v add to p and v at s in [0, 1] of a cubic."""
    r = 1.0 - s
    weights[0, 0] = (1.0 + 2.0 * s) * r * r
    weights[0, 1] = span * s * r * r
    weights[0, 2] = s * s * (3.0 - 2.0 * s)
    weights[0, 3] = -span * s * s * r
    weights[1, 0] = -6.0 * s * r / span
    weights[1, 1] = r * (1.0 - 3.0 * s)
    weights[1, 2] = 6.0 * s * r / span
    weights[1, 3] = s * (3.0 * s - 2.0)


class Reference:
    """A chunk being followed.

    Args:
        due_ns: (T,) when each target is due, ROS time.
        targets: (T, A) positions, T >= 2.
        now_ns: The present, ROS time, before the last target is due.
        command: (2, A) present position and velocity, where the reference begins.
        blend: Seconds until nothing of the offset is left. Where the first target is due
            later than that, it takes until then.
    """

    def __init__(
        self,
        due_ns: NDArray[np.int64],
        targets: Floats,
        now_ns: int,
        command: Floats,
        blend: float,
    ) -> None:
        self._origin_ns = int(due_ns[0])
        self.end_ns = int(due_ns[-1])
        times = (due_ns - due_ns[0]) * 1e-9
        self._times: list[float] = times.tolist()
        knots = np.stack([targets, knot_velocities(times, targets)], axis=1)
        # Rows alternate position and velocity: four in a row make a segment.
        self._knots = knots.reshape(-1, targets.shape[1])
        self._weights = np.zeros((2, 4))
        self._offset = np.zeros((2, targets.shape[1]))
        self._shifted = np.zeros_like(self._offset)
        self._start = (now_ns - self._origin_ns) * 1e-9
        self._blend = max(blend, -self._start)
        out = np.zeros_like(self._offset)
        self.sample(now_ns, out)
        np.subtract(command, out, out=self._offset)

    def shift(self, ns: int) -> None:
        """Follow a step of the clock."""
        self._origin_ns += ns
        self.end_ns += ns

    def index(self, now_ns: int) -> int:
        """Which target comes next, at most the last."""
        count = len(self._times)
        return min(bisect_right(self._times, (now_ns - self._origin_ns) * 1e-9), count - 1)

    def sample(self, now_ns: int, out: Floats) -> None:
        """Fill ``out`` (2, A) with position and velocity at a time up to ``end_ns``.

        Before the first target the motion is the straight one that meets it.
        """
        t = (now_ns - self._origin_ns) * 1e-9
        k = max(0, min(bisect_right(self._times, t), len(self._times) - 1) - 1)
        if t < 0:
            self._weights[:] = ((1.0, t, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0))
        else:
            span = self._times[k + 1] - self._times[k]
            _fill_weights(self._weights, (t - self._times[k]) / span, span)
        np.matmul(self._weights, self._knots[2 * k : 2 * k + 4], out=out)
        blended = (t - self._start) / self._blend
        if blended < 1:
            # Time before the splice comes up where a clock stepped by less than is noticed.
            _fill_weights(self._weights, max(0.0, blended), self._blend)
            np.matmul(self._weights[:, :2], self._offset, out=self._shifted)
            out += self._shifted
