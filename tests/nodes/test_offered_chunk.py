# SPDX-License-Identifier: Apache-2.0
"""A chunk's message as the commander takes it."""

import pytest
from vla_interfaces.msg import ActionChunk

from vla_nodes.nodes.commander import offered_chunk


@pytest.mark.parametrize(
    ("verdict", "rejected"),
    [
        (ActionChunk.VERDICT_UNCHECKED, False),
        (ActionChunk.VERDICT_ACCEPTED, False),
        (ActionChunk.VERDICT_REJECTED, True),
        (3, True),
        (255, True),
    ],
)
def test_a_verdict_that_is_not_known_is_no_leave_to_move(verdict: int, rejected: bool) -> None:
    assert offered_chunk(ActionChunk(verdict=verdict)).rejected == rejected
