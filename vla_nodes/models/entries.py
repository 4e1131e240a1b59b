# SPDX-License-Identifier: Apache-2.0
"""Typed entries of a JSON object; an error names the file, the key, what was found and expected."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vla_nodes.models.errors import CheckpointError

LARGEST = 1 << 20
"""No number of a model is beyond this."""
_LONGEST = 200  # characters of a name
_MOST = 1000  # names
_REQUIRED: Any = object()


class Entries:
    """Entries of an object, each taken once.

    Args:
        file: For errors.
        values: The object.
        key: Of the object in its file, "" for the file as a whole.
    """

    def __init__(self, file: Path, values: Mapping[str, Any], key: str = "") -> None:
        self._file = file
        self._values = values
        self._key = key
        self._taken: set[str] = set()

    def integer(self, key: str, least: int = 1, most: int = LARGEST) -> int:
        """A whole number.

        Raises:
            CheckpointError: It is another thing, or out of bounds.
        """
        value = self._take(key)
        if type(value) is not int or not least <= value <= most:
            self.refuse(key, f"a whole number from {least} to {most}")
        return value

    def shape(self, key: str) -> tuple[int, ...]:
        """A list of one to four whole numbers.

        Raises:
            CheckpointError: It is another thing.
        """
        value = self._take(key)
        good = isinstance(value, list) and 1 <= len(value) <= 4
        if not (good and all(type(n) is int and 1 <= n <= LARGEST for n in value)):
            self.refuse(key, f"a list of whole numbers from 1 to {LARGEST}")
        return tuple(value)

    def number(self, key: str) -> float:
        """A number above 0.

        Raises:
            CheckpointError: It is another thing.
        """
        value = self._take(key)
        if type(value) not in (int, float) or not 0 < value <= LARGEST:
            self.refuse(key, f"a number above 0, up to {LARGEST}")
        return float(value)

    def shares(self, key: str) -> tuple[float, float, float]:
        """Of training, validation and test.

        Raises:
            CheckpointError: It is another thing.
        """
        value = self._take(key)
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(type(share) in (int, float) and 0 <= share <= 1 for share in value)
            or abs(sum(value) - 1) > 1e-6
        ):
            self.refuse(key, "three numbers from 0 to 1 that sum to 1")
        return value[0], value[1], value[2]

    def flag(self, key: str) -> bool:
        """True or false.

        Raises:
            CheckpointError: It is another thing.
        """
        value = self._take(key)
        if type(value) is not bool:
            self.refuse(key, "true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, Any]) -> Any:
        """One of the choices, by its name.

        Raises:
            CheckpointError: It is none.
        """
        value = self._take(key)
        if not isinstance(value, str) or value not in choices:
            self.refuse(key, " or ".join(choices))
        return choices[value]

    def names(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...] | None:
        """A list of names without repetition; None for null.

        Raises:
            CheckpointError: It is another thing.
        """
        value = self._take(key, default)
        if value is None:
            return None
        if not isinstance(value, list):
            self.refuse(key, "a list of texts")
        return self.checked_names(key, value)

    def checked_names(self, key: str, names: Sequence[Any]) -> tuple[str, ...]:
        """Names that an entry holds in whatever way, such as those of cameras.

        Raises:
            CheckpointError: They are too many or too long, or one is there twice.
        """
        if len(names) > _MOST or not all(map(_is_name, names)):
            self.refuse(key, f"at most {_MOST} texts of 1 to {_LONGEST} characters")
        if len(set(names)) < len(names):
            self.refuse(key, "no name twice")
        return tuple(names)

    def part(self, key: str) -> "Entries":
        """An object.

        Raises:
            CheckpointError: It is another thing.
        """
        value = self._take(key)
        if not isinstance(value, dict):
            self.refuse(key, "an object")
        return Entries(self._file, value, f"{self._key}{key}.")

    def raw(self, key: str, default: Any = None) -> Any:
        """Whatever is there."""
        return self._take(key, default)

    def parts(self) -> "dict[str, Entries]":
        """All entries, which must be objects, by their keys."""
        return {key: self.part(key) for key in self._values}

    def left(self) -> list[str]:
        """Keys that were not taken."""
        return [key for key in self._values if key not in self._taken]

    def refuse_left(self) -> None:
        """Ends the reading.

        Raises:
            CheckpointError: There are keys that were not taken.
        """
        for key in self.left():
            self.refuse(key, "no such key")

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raises the error about an entry."""
        value = self._values.get(key)
        raise CheckpointError(
            f"{self._file}: {self._key}{key:.100} is {value!r:.100}, expected {expected}"
        )

    def _take(self, key: str, default: Any = _REQUIRED) -> Any:
        self._taken.add(key)
        if key not in self._values and default is _REQUIRED:
            raise CheckpointError(f"{self._file}: {self._key}{key:.100} is missing")
        return self._values.get(key, default)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST
