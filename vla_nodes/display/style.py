# SPDX-License-Identifier: Apache-2.0
"""What every display of a run shares: colours, and text and figures made fit to show.

The colours are Okabe and Ito's, which stay apart under colour blindness
(https://jfly.uni-koeln.de/color/), with the dark ones lightened for a dark background.
"""

import math

BLUE = "#0072b2"
ORANGE = "#e69f00"
GREY = "#8a919b"

SKY = "#56b4e9"
GREEN = "#3cc29a"
AMBER = "#e6a817"
RED = "#ef6155"

STATE_COLOURS = {
    "running": SKY,
    "success": GREEN,
    "finished": GREEN,
    "stalled": AMBER,
    "dropped": RED,
    "timed out": AMBER,
    "cancelled": AMBER,
    "rejected": RED,
    "aborted": RED,
    "failure": RED,
    "e-stop": RED,
}


def state_colour(state: str) -> str:
    """The colour (#rrggbb) of a run's state; grey for one that is not known."""
    return STATE_COLOURS.get(state.lower(), GREY)


def value_state(*, finished: bool, dropped: bool, stalled: bool) -> str:
    """The state that a value's events amount to; what needs attention comes first."""
    events = {"finished": finished, "dropped": dropped, "stalled": stalled}
    return next((state for state, happened in events.items() if happened), "running")


def printable(text: str, limit: int = 200) -> str:
    """One line of at most ``limit`` characters, free of control and direction characters.

    Texts come from users and from the network; none may move a cursor or fill a screen.
    """
    # Whitespace shrinks below: look a little further than the limit, but never at megabytes.
    head = text[: 4 * limit]
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    if len(line) <= limit and len(head) == len(text):
        return line
    return line[: limit - 1].rstrip() + "…"


def figure(value: float, digits: str) -> str:
    """A number by a format such as ``.2f``, short whatever its size, "-" when it is NaN."""
    if math.isnan(value):
        return "-"
    return format(value, digits if abs(value) < 1e5 else ".1e")
