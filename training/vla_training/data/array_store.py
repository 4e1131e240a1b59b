# SPDX-License-Identifier: Apache-2.0
"""Arrays by place on disk: written in pieces, read through memory maps."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_training.data.errors import DataError
from vla_training.data.files import write_whole

Places = npt.NDArray[np.int64]
Write = Callable[[Places, Iterable[npt.NDArray[Any]]], None]

_SPARE = 64 << 20  # bytes of a disk that are left free
_PIECE, _PERIOD = 256 << 20, 10.0  # bytes or seconds after which what was made is put on the disk


class ArrayStore:
    """An array for each place, all of one width and type, whose lengths may differ.

    ``values`` is as long as if it held the longest arrays of all places, but takes room for what
    was written alone. ``lengths`` has a number for each place, which is 0 until its array is on
    the disk.

    Attributes:
        folder: Of this store.
        shape: Of the longest array.

    Args:
        folder: Of several such stores; each has a folder in it, whose name is a digest of
            identity and size, so that nothing is taken for what it is not.
        identity: What the arrays follow from.
        dtype: Of their elements.
        places: How many there may be.
        shape: Of the longest array.

    Raises:
        DataError: The folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        dtype: npt.DTypeLike,
        places: int,
        shape: tuple[int, ...],
    ) -> None:
        self._dtype, size = np.dtype(dtype), (places, *shape)
        about = {"of": dict(identity), "dtype": self._dtype.str, "size": size}
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self.folder = folder.expanduser().resolve() / name
        self.shape = shape
        self._bytes = int(np.prod(shape)) * self._dtype.itemsize
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file, length in (("values", places * self._bytes), ("lengths", places * 4)):
                with (self.folder / file).open("ab") as opened:
                    if opened.tell() < length:
                        opened.truncate(length)
            self._values = np.memmap(self.folder / "values", self._dtype, "r", shape=size)
            self._lengths = np.memmap(self.folder / "lengths", "<i4", "r", shape=size[:1])
        except OSError as error:
            raise DataError(f"{self.folder} cannot hold arrays: {error.strerror}") from error
        if not (self.folder / "about.json").exists():
            write_whole(self.folder / "about.json", about)

    def done(self, places: Places) -> npt.NDArray[np.bool_]:
        """Of which places there are arrays; also of those that were made since."""
        return np.asarray(self._lengths[places] > 0)

    def read(self, places: Places) -> npt.NDArray[Any]:
        """Whole arrays, (N, *shape).

        Raises:
            DataError: There is none of one of the places.
        """
        self._check_there(places)
        return np.array(self._values[places])

    def read_one(self, place: int) -> npt.NDArray[Any]:
        """The array of a place, (length, *shape[1:]).

        Raises:
            DataError: There is none.
        """
        self._check_there(np.array([place]))
        return np.array(self._values[place, : self._lengths[place]])

    def _check_there(self, places: Places) -> None:
        absent = places[~self.done(places)]
        if absent.size:
            raise DataError(f"{self.folder} has nothing of frame {absent[0]} of the dataset")

    @contextmanager
    def sole_access(self) -> Iterator[None]:
        """Waits until no other process writes here."""
        with (self.folder / "lengths").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """Yields a function of places and their arrays, which writes them.

        Raises:
            DataError: The disk refused.
        """
        waiting: dict[int, int] = {}
        written, settled = 0, time.monotonic()
        # Not through memory: there, a full disk would kill the process.
        with (
            (self.folder / "values").open("r+b") as values,
            (self.folder / "lengths").open("r+b") as lengths,
        ):

            def settle() -> None:
                nonlocal written, settled
                os.fsync(values.fileno())
                for place, length in waiting.items():
                    os.pwrite(lengths.fileno(), length.to_bytes(4, "little"), place * 4)
                waiting.clear()
                written, settled = 0, time.monotonic()

            def write(places: Places, arrays: Iterable[npt.NDArray[Any]]) -> None:
                nonlocal written
                with self._saying_where():
                    for place, array in zip(places.tolist(), arrays, strict=True):
                        content = array.astype(self._dtype).tobytes()
                        _write_all(values.fileno(), content, place * self._bytes)
                        waiting[place] = len(array)
                        written += len(content)
                    if written >= _PIECE or time.monotonic() - settled >= _PERIOD:
                        settle()

            try:
                yield write
            finally:
                with self._saying_where():
                    settle()

    @contextmanager
    def _saying_where(self) -> Iterator[None]:
        """Says where the disk refused."""
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error.strerror}") from error


def check_room(folder: Path, what: str, needed: int) -> None:
    """Says what something will take on the disk, and refuses where that is not free.

    Args:
        folder: Where it is to lie; it is there.
        what: In words, plural.
        needed: Bytes.

    Raises:
        DataError: There is no room.
    """
    free = shutil.disk_usage(folder).free
    text = f"{what} take {needed / 1e9:.2f} GB in {folder}"
    if needed + _SPARE > free:
        raise DataError(
            f"{text}, where {free / 1e9:.2f} GB are free; name another folder, or ask for "
            "fewer frames"
        )
    print(text, file=sys.stderr)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        count = os.pwrite(descriptor, content, offset)
        content, offset = content[count:], offset + count
