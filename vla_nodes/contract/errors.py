# SPDX-License-Identifier: Apache-2.0
"""The one error of this room."""

from pathlib import Path


class ContractError(ValueError):
    """A contract, or a file it names, that cannot be used.

    The text is one line, ``FILE:LINE: KEY: found WHAT; REMEDY``.

    Args:
        file: The contract or the URDF.
        line: Line in the file, from 1; None where there is none to name.
        key: Dotted key such as ``cameras.front.max_age``; empty for the whole file.
        found: What the file says.
        remedy: What would be right.
    """

    def __init__(self, file: Path, line: int | None, key: str, found: str, remedy: str):
        # All arguments go to the base class: an exception is pickled as its args.
        super().__init__(file, line, key, found, remedy)
        self.file, self.line, self.key, self.found, self.remedy = file, line, key, found, remedy

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else f"{self.file}"
        parts = (place, self.key, f"found {self.found}; {self.remedy}")
        return " ".join(": ".join(filter(None, parts)).splitlines())
