# SPDX-License-Identifier: Apache-2.0
"""The error of everything that records, and text from outside within one."""


class RecordingError(Exception):
    """What keeps an episode from being recorded; the text is one line."""


def one_line(text: str, most: int = 512) -> str:
    """A text bounded in length, with everything escaped that would not print."""
    shown = (c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
    return "".join(shown)[:most]
