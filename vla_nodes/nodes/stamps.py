# SPDX-License-Identifier: Apache-2.0
"""Times and durations, which ROS splits in two, as whole nanoseconds and back."""

from builtin_interfaces.msg import Duration, Time

SECOND = 1_000_000_000


def nanoseconds(stamp: Time | Duration) -> int:
    """A stamp or a duration in nanoseconds."""
    return stamp.sec * SECOND + stamp.nanosec


def time_message(stamp: int) -> Time:
    """A stamp of ``stamp`` nanoseconds."""
    seconds, rest = divmod(stamp, SECOND)
    return Time(sec=seconds, nanosec=rest)


def duration_message(duration: int) -> Duration:
    """A duration of ``duration`` nanoseconds."""
    seconds, rest = divmod(duration, SECOND)
    return Duration(sec=seconds, nanosec=rest)
