# SPDX-License-Identifier: Apache-2.0
"""Whether a policy moves the joints that a robot has."""

from collections.abc import Sequence

from vla_nodes.models.errors import CheckpointError


def check_joints(
    theirs: Sequence[str] | None, ours: Sequence[str], robot: str, whose: str = "the policy"
) -> None:
    """Compares names and order.

    Args:
        theirs: Of the policy's joints, with or without LeRobot's ``.pos``; None where it does
            not name them.
        ours: Of the robot's joints.
        robot: Its name.
        whose: The first joints, for an error.

    Raises:
        CheckpointError: They are others, or in another order.
    """
    if theirs is None or [_bare(name) for name in theirs] == [_bare(name) for name in ours]:
        return
    raise CheckpointError(
        f"{whose}'s joints are {', '.join(theirs):.300}; those of '{robot}' are "
        f"{', '.join(ours):.300}"
    )


def _bare(name: str) -> str:
    return name.removesuffix(".pos").removesuffix(".position")
