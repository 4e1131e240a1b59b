# SPDX-License-Identifier: Apache-2.0
"""Arrays of features by place on disk: written in pieces, read through memory maps."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vla_training.data.errors import DataError
from vla_training.data.files import write_whole
from vla_training.evaluation.value_pictures import Rows

HALF = np.dtype("<f2")

_SPARE = 64 << 20  # bytes of a disk that are left free
_PIECE = 256 << 20  # bytes after which what was made is sure to be on the disk


class FeatureStore:
    """The features of one camera, by place in the dataset.

    ``features`` is as long as if it held all of them, but takes room for those written alone;
    ``done`` has a byte for each, which is set once its features are on the disk.

    Args:
        folder: Of all features.
        identity: What these follow from.
        size: Frames of the dataset, tokens of a picture, and their width.

    Raises:
        DataError: The folder cannot be used.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], size: tuple[int, int, int]
    ) -> None:
        about = {**identity, "size": size}
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self.folder = folder.expanduser().resolve() / name
        self._frame_bytes = size[1] * size[2] * HALF.itemsize
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file, length in (("features", size[0] * self._frame_bytes), ("done", size[0])):
                with (self.folder / file).open("ab") as opened:
                    if opened.tell() < length:
                        opened.truncate(length)
            self._features = np.memmap(self.folder / "features", HALF, "r", shape=size)
            self._done = np.memmap(self.folder / "done", np.uint8, "r", shape=size[:1])
        except OSError as error:
            raise DataError(f"{self.folder} cannot hold features: {error.strerror}") from error
        if not (self.folder / "about.json").exists():
            write_whole(self.folder / "about.json", about)

    def done(self, places: Rows) -> npt.NDArray[np.bool_]:
        """Of which places there are features; also of those that were made since."""
        return np.asarray(self._done[places] == 1)

    def read(self, places: Rows) -> Tensor:
        """(N, P, W) float16."""
        absent = places[~self.done(places)]
        if absent.size:
            raise DataError(f"{self.folder} has no features of frame {absent[0]} of the dataset")
        return torch.from_numpy(np.array(self._features[places]))

    def check_room(self, pictures: int) -> None:
        """Says what so many pictures will take, and refuses where that is not free."""
        needed = pictures * self._frame_bytes
        free = shutil.disk_usage(self.folder).free
        text = f"features of {pictures} pictures take {needed / 1e9:.2f} GB in {self.folder.parent}"
        if needed + _SPARE > free:
            raise DataError(
                f"{text}, where {free / 1e9:.2f} GB are free; name another folder, "
                "ask for fewer frames, or do without a cache"
            )
        print(text, file=sys.stderr)

    @contextmanager
    def sole_access(self) -> Iterator[None]:
        """Waits until no other process writes here."""
        with (self.folder / "done").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def writing(self) -> Iterator[Callable[[Rows, npt.NDArray[np.float16]], None]]:
        """Yields a function of places and (N, P, W) float16, which writes them."""
        waiting: list[int] = []
        # Not through memory: there, a full disk would kill the process.
        with (
            (self.folder / "features").open("r+b") as features,
            (self.folder / "done").open("r+b") as done,
        ):

            def settle() -> None:
                os.fsync(features.fileno())
                for place in waiting:
                    os.pwrite(done.fileno(), b"\1", place)
                waiting.clear()

            def write(places: Rows, values: npt.NDArray[np.float16]) -> None:
                for place, one in zip(places.tolist(), values, strict=True):
                    content = one.astype(HALF).tobytes()
                    _write_all(features.fileno(), content, place * self._frame_bytes)
                    waiting.append(place)
                if len(waiting) * self._frame_bytes >= _PIECE:
                    settle()

            try:
                yield write
            finally:
                settle()


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        count = os.pwrite(descriptor, content, offset)
        content, offset = content[count:], offset + count
