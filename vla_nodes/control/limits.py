# SPDX-License-Identifier: Apache-2.0
"""The limiter: every command passes here, and none leaves that breaks a limit.

Convention. Within a tick of length dt the acceleration is constant, so that

    p' = p + dt (v + v') / 2

is exact, the published velocity is the true one at the published position, and second
differences of the positions obey the acceleration limit whatever the spacing of ticks.

Viability. The length of coming ticks is unknown, but at most ``dt_max`` (T below). With
acceleration a, coming to rest from speed v under the worst spacing takes no more than

    D(v) = v T / 2                 for v <= a T / 2
    D(v) = v² / 2a + a T² / 8      beyond,

where the second part is tangent to the first. dD/dv = max(T / 2, v / a), so in a tick with
v' = max(0, v - a dt) the room D shrinks by no less than the dt (v + v') / 2 that is
travelled. A state with D(v) <= room is therefore followed by another one, and a command
held to that never runs out of room.

The same D, taken in the frame of a moving reference, gives the fastest approach to it that
does not overshoot.
"""

import numpy as np

from vla_nodes.control.parameters import Floats, Joints


class Limiter:
    """Position and velocity of the command, moved one tick at a time.

    A joint found outside its position limits may only move inward, at creep speed, and
    what it has gained is kept. Nothing is allocated in a tick, except while that lasts.

    Attributes:
        position: (A,) commanded, rad or m.
        velocity: (A,) commanded, per second.
    """

    def __init__(self, joints: Joints, dt_max: float, creep: float) -> None:
        count = len(joints.names)
        self.position, self.velocity = np.zeros((2, count))
        self._joints = joints
        self._dt_max = dt_max
        self._creep = creep * joints.velocity
        self._twice_a = 2 * joints.acceleration
        self._knee = joints.acceleration * (dt_max / 2)
        self._desired, self._low, self._high, self._scratch = np.zeros((4, count))
        # Rows: towards the reference, the upper limit, the lower limit.
        self._room, self._speed = np.zeros((2, 3, count))
        self.seed(np.clip(0.0, joints.lower, joints.upper))

    def seed(self, position: Floats) -> None:
        """Be at rest at ``position`` (A,)."""
        self.position[:] = position
        self.velocity[:] = 0.0
        self._fit_bounds()

    @property
    def at_rest(self) -> bool:
        """Whether every commanded velocity is zero."""
        return not self.velocity.any()

    def track(self, reference: Floats, dt: float) -> None:
        """Move towards a reference as fast as the limits allow.

        A reference that keeps within the limits is met exactly, but for what its jerk does
        within a tick, of the order of jerk dt³.

        Args:
            reference: (2, A) its position and velocity at the end of the tick.
            dt: Seconds, in (0, dt_max].
        """
        desired, distance = self._desired, self._scratch
        np.clip(reference[1], self._v_lower, self._v_upper, out=desired)
        np.add(self.velocity, desired, out=self._low)
        self._low *= dt / 2
        np.clip(reference[0], self._joints.lower, self._joints.upper, out=distance)
        distance -= self.position
        distance -= self._low
        np.abs(distance, out=self._room[0])
        self._fill_speed(dt)
        np.copysign(self._speed[0], distance, out=distance)
        desired += distance
        self._move(dt)

    def brake(self, dt: float) -> None:
        """Decelerate towards rest as fast as the limits allow, then stay there."""
        self._desired[:] = 0.0
        self._fill_speed(dt)
        self._move(dt)

    def lose(self, seconds: float) -> None:
        """Give up the speed that braking for ``seconds`` would have cost, without moving."""
        loss = np.minimum(np.abs(self.velocity), self._joints.acceleration * seconds)
        self.velocity -= np.copysign(loss, self.velocity)

    def _fill_speed(self, dt: float) -> None:
        """Fill the greatest v' with D(v') + v' dt / 2 <= room, in each row."""
        room, speed = self._room, self._speed
        np.multiply(self.velocity, dt / 2, out=self._low)
        np.subtract(self._upper, self.position, out=room[1])
        np.subtract(self.position, self._lower, out=room[2])
        room[1] -= self._low
        room[2] += self._low
        np.maximum(room, 0.0, out=room)
        # With h = (T + dt) / 2, a speed up to the knee a T / 2 needs v' h of room; the w
        # beyond it needs w h + w² / 2a.
        half = (self._dt_max + dt) / 2
        np.multiply(room, 1 / half, out=speed)
        np.minimum(speed, self._knee, out=speed)
        np.multiply(self._knee, half, out=self._low)
        room -= self._low
        np.maximum(room, 0.0, out=room)
        room *= self._twice_a
        np.multiply(self._joints.acceleration, half, out=self._low)
        np.multiply(self._low, self._low, out=self._high)
        room += self._high
        np.sqrt(room, out=room)
        room -= self._low
        speed += room

    def _move(self, dt: float) -> None:
        """Take the desired velocity as far as the limits allow, and move by it."""
        low, high, change = self._low, self._high, self._scratch
        np.multiply(self._joints.acceleration, dt, out=change)
        np.minimum(self._speed[1], self._v_upper, out=high)
        np.negative(self._speed[2], out=low)
        np.maximum(low, self._v_lower, out=low)
        np.add(self.velocity, change, out=self._room[1])
        np.minimum(high, self._room[1], out=high)
        np.subtract(self.velocity, change, out=self._room[2])
        np.maximum(low, self._room[2], out=low)
        np.clip(self._desired, low, high, out=self._desired)
        self.velocity += self._desired
        self.velocity *= dt / 2
        self.position += self.velocity
        np.clip(self.position, self._lower, self._upper, out=self.position)
        self.velocity[:] = self._desired
        if self._outside:
            self._fit_bounds()

    def _fit_bounds(self) -> None:
        """Let the bounds reach out to joints that are outside; those only creep inward."""
        joints = self._joints
        below, above = self.position < joints.lower, self.position > joints.upper
        self._lower = np.minimum(joints.lower, self.position)
        self._upper = np.maximum(joints.upper, self.position)
        speed = np.where(below | above, self._creep, joints.velocity)
        self._v_lower = np.where(below, 0.0, -speed)
        self._v_upper = np.where(above, 0.0, speed)
        self._outside = bool((below | above).any())
