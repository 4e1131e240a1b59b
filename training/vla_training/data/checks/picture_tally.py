# SPDX-License-Identifier: Apache-2.0
"""Whether pictures of a video are of the moment they should be.

Encoding changes every picture, so that none equals its source. How far one lies on the way from
its source to the picture beside the source tells whether it is of another moment: a key frame
lies next to 0, or next to 1. The pictures between key frames tell less, since a strong encoder
repeats the one before where little moves.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import Camera
from vla_training.data.checks.findings import Finding, graded

Picture = npt.NDArray[np.uint8]

_COARSE = 48  # pixels of the shorter side; averages over what encoding and noise change
_DISTINCT = 5  # levels by which a pixel of two such pictures must differ to tell them apart
_ENOUGH = 0.02  # share of such pixels; in fewer the encoder's own errors may look like motion
_HALFWAY = 0.5


class Shown(NamedTuple):
    """A picture of a dataset's video, RGB."""

    picture: Picture
    is_key: bool


class PictureTally:
    """What comparing a camera's pictures has found so far.

    Args:
        key: Of the column.
        camera: Of the contract.
        least: dB.
    """

    def __init__(self, key: str, camera: Camera, least: float) -> None:
        self.key, self.camera = key, camera
        self._least = least
        self._compared = self._missing = 0
        self._lowest, self._where = np.inf, ""
        self._stale: list[str] = []
        # Of each picture and side: episode, frame, whether a key frame, how far on the way there.
        self._ways = array("d")

    def add(
        self,
        found: Shown,
        source: Picture,
        beside: Sequence[Picture],
        episode: int,
        frame: int,
    ) -> None:
        """Compares a picture with its source, and with the pictures before and after the source."""
        height, width = found.picture.shape[:2]
        source = _resized(source, width, height)
        # At half the size, for video keeps colour no finer than that.
        half = (max(width // 2, 1), max(height // 2, 1))
        psnr = cv2.PSNR(_resized(found.picture, *half), _resized(source, *half))
        self._compared += 1
        if psnr < self._lowest:
            self._lowest, self._where = psnr, _where(episode, frame)
        scale = max(min(width, height) // _COARSE, 1)
        size = (max(width // scale, 1), max(height // scale, 1))
        off = _coarse(found.picture, size) - _coarse(source, size)
        for other in beside:
            step = _coarse(_resized(other, width, height), size) - _coarse(source, size)
            distinct = np.abs(step).max(axis=2) > _DISTINCT
            if distinct.mean() >= _ENOUGH:
                way = (off[distinct] * step[distinct]).sum() / (step[distinct] ** 2).sum()
                self._ways.extend((episode, frame, found.is_key, float(way)))

    def miss(self) -> None:
        """Counts a picture whose source the bag does not give."""
        self._missing += 1

    def stale(self, episode: int, frame: int) -> None:
        """Counts a picture that was too old for its frame."""
        self._stale.append(_where(episode, frame))

    def finding(self) -> Finding:
        """The result."""
        if not self._compared:
            return Finding("against", self.key, "fail", "no picture could be compared", 0)
        text = (
            f"{self._compared} pictures compared, lowest PSNR {self._lowest:.1f} dB in "
            f"{self._where}; {len(self._ways) // 4} times told from the one before or after"
        )
        mistaken, lagging = self._judged()
        if self._missing:
            text += f"; {self._missing} not compared, the bag does not give their source"
        if mistaken:
            text += f"; {len(mistaken)} are another moment's, first {_where(*mistaken[0])}"
        if lagging:
            text += (
                f"; {len(lagging)} between key frames lag behind, first {_where(*lagging[0])}: "
                "a lower --crf keeps small motions"
            )
        if self._stale:
            text += f"; {len(self._stale)} are older than max_age, first {self._stale[0]}"
        bad = mistaken or self._stale or self._lowest < self._least
        level = graded(bad, self._missing)
        return Finding("against", self.key, level, text, self._lowest, self._least)

    def _judged(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Episode and frame of the pictures of another moment, and of those that may only lag."""
        episodes, frames, is_key, ways = np.frombuffer(self._ways).reshape(-1, 4).T
        far = ways > _HALFWAY
        between = is_key == 0
        mistaken = far & ~between
        for episode in np.unique(episodes):
            own = between & (episodes == episode)
            # An encoder leaves out motions here and there, and not in most pictures.
            if 2 * np.count_nonzero(far & own) > np.count_nonzero(own):
                mistaken |= far & own
        places = list(zip(episodes.astype(int).tolist(), frames.astype(int).tolist(), strict=True))
        wrong, behind = (
            sorted({places[i] for i in np.flatnonzero(which)})
            for which in (mistaken, far & ~mistaken)
        )
        return wrong, behind


def _coarse(picture: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return _resized(picture, *size).astype(np.float32)


def _where(episode: int, frame: int) -> str:
    return f"episode {episode} frame {frame}"


def _resized(picture: Picture, width: int, height: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
