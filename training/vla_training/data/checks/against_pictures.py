# SPDX-License-Identifier: Apache-2.0
"""Pictures of a dataset against those of a bag.

Encoding changes every picture, so that none equals its source. How far one lies on the way from
its source to the picture beside the source tells whether it is of another moment: a key frame
lies next to 0, or next to 1. The pictures between key frames tell less, since a strong encoder
repeats the one before where little moves.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import Camera, Contract
from vla_nodes.observation.codecs import decode_camera
from vla_nodes.observation.errors import CodecError
from vla_training.data.bags.bag import Bag
from vla_training.data.bags.errors import shown
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding, graded
from vla_training.data.checks.joint_logs import Times, header_stamp, in_order
from vla_training.data.checks.video_scan import open_video
from vla_training.data.conversion.schema import BAG_TIME
from vla_training.data.conversion.video_packets import VIDEO_TYPES
from vla_training.data.errors import DataError

Picture = npt.NDArray[np.uint8]

_COARSE = 48  # pixels of the shorter side; averages over what encoding and noise change
_DISTINCT = 5  # levels by which a pixel of two such pictures must differ to tell them apart
_ENOUGH = 4  # such pixels
_HALFWAY = 0.5
# A picture that is no key frame is another moment's if it lies far beyond where others do.
_BEYOND = 0.7
_TIMES_USUAL = 3.0


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
            if distinct.sum() >= _ENOUGH:
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
        mistaken = self._mistaken()
        if self._missing:
            text += f"; {self._missing} not compared, the bag does not give their source"
        if mistaken:
            text += f"; {len(mistaken)} are another moment's, first {_where(*mistaken[0])}"
        if self._stale:
            text += f"; {len(self._stale)} are older than max_age, first {self._stale[0]}"
        bad = mistaken or self._stale or self._lowest < self._least
        level = graded(bad, self._missing)
        return Finding("against", self.key, level, text, self._lowest, self._least)

    def _mistaken(self) -> list[tuple[int, int]]:
        """Episode and frame of the pictures that are of the moment before or after."""
        episodes, frames, is_key, ways = np.frombuffer(self._ways).reshape(-1, 4).T
        between = is_key == 0
        usual = float(np.quantile(np.abs(ways[between]), 0.9)) if between.any() else 0.0
        wrong = ways > np.where(between, max(_BEYOND, _TIMES_USUAL * usual), _HALFWAY)
        places = zip(episodes[wrong].tolist(), frames[wrong].tolist(), strict=True)
        return sorted({(int(episode), int(frame)) for episode, frame in places})


def compare_pictures(
    dataset: Dataset,
    episode: Mapping[str, Any],
    contract: Contract,
    bag: Bag,
    window: tuple[int, int],
    tallies: Sequence[PictureTally],
    progress: Callable[[int], object],
) -> None:
    """Compares the pictures of one episode.

    Args:
        dataset: Its rows can be told apart by episode.
        episode: Row of ``meta/episodes``.
        contract: That it was made with.
        bag: That it was made from.
        window: Times of receipt to read, ns.
        tallies: One for each camera.
        progress: Called with the number of pictures since the last call.

    Raises:
        DataError: The bag or a video cannot be read.
    """
    part = slice(episode["dataset_from_index"], episode["dataset_to_index"])
    times = dataset.columns[BAG_TIME][part]
    topics = {tally.camera.topic for tally in tallies}
    logs = {topic: (array("q"), array("q")) for topic in topics}
    for receive, topic, message in bag.messages(topics, *window):
        stamp = None if contract.timeline == "receive" else header_stamp(message)
        logs[topic][0].append(receive if stamp is None else stamp)
        logs[topic][1].append(receive)
    comparisons = []
    for tally in tallies:
        stamps, receives = (np.frombuffer(log, np.int64) for log in logs[tally.camera.topic])
        video = dataset.root / dataset.video_file(episode, tally.key)
        first = round(float(episode[f"videos/{tally.key}/from_timestamp"]) * dataset.fps)
        pictures = _read_video(video, first, len(times), dataset.fps)
        comparisons.append(
            _Comparison(tally, episode["episode_index"], times, stamps, receives, pictures)
        )
    for _, topic, message in bag.messages(topics, *window):
        for comparison in comparisons:
            if comparison.topic == topic:
                progress(comparison.take(message))
    for comparison in comparisons:
        progress(comparison.finish())


class _Comparison:
    """One camera and episode: messages come in order, and pictures leave as they are compared."""

    def __init__(
        self,
        tally: PictureTally,
        episode: int,
        times: Times,
        stamps: Times,
        receives: Times,
        found: Iterator[Shown],
    ) -> None:
        self.topic = tally.camera.topic
        self._tally = tally
        self._episode = episode
        self._found = found
        self._frame = 0
        self._number = 0  # of the next message
        self._is_video = tally.camera.type in VIDEO_TYPES
        if self._is_video:  # packets come in another order than pictures
            kept = np.argsort(stamps, kind="stable")
            kept = kept[stamps[kept] > 0]
        else:
            kept = in_order(stamps, receives)
        # The source of a frame is the newest picture that is not after it.
        self._sources = np.searchsorted(stamps[kept], times, side="right") - 1
        self._ages = times - stamps[kept][np.maximum(self._sources, 0)] if len(kept) else times
        self._last = len(kept) - 1
        used = {int(place) + step for place in self._sources for step in (-1, 0, 1)}
        self._places = {int(kept[i]): i for i in used if 0 <= i < len(kept)}
        self._pictures: dict[int, Picture | None] = {}  # by place; None for one without content
        if self._is_video:
            self._decoder: Any = av.VideoCodecContext.create(tally.camera.encoding, "r")

    def take(self, message: Any) -> int:
        """Takes the next message in.

        Returns:
            How many frames could be compared with it.
        """
        number, self._number = self._number, self._number + 1
        if self._is_video:
            packet = av.Packet(bytes(message.data))
            packet.pts = number
            self._decode(packet)
        elif number in self._places:
            try:
                picture = decode_camera(self._tally.camera, message)
            except CodecError:
                self._pictures[self._places[number]] = None
            else:
                # A view of the message would keep all of its bag's chunk in memory.
                self._pictures[self._places[number]] = picture.copy()
        return self._advance(whole=False)

    def finish(self) -> int:
        """Compares what waited for pictures that never came."""
        if self._is_video:
            self._decode(None)
        return self._advance(whole=True)

    def _decode(self, packet: av.Packet | None) -> None:
        """Puts the pictures of a video where they belong."""
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            return
        for frame in frames:
            if frame.pts in self._places:
                picture = frame.to_ndarray(format="rgb24")
                if crop := self._tally.camera.crop:
                    x, y, width, height = crop
                    picture = picture[y : y + height, x : x + width]
                self._pictures[self._places[frame.pts]] = picture

    def _advance(self, whole: bool) -> int:
        """Compares the frames whose pictures are there."""
        begin = self._frame
        while self._frame < len(self._sources):
            place = int(self._sources[self._frame])
            needed = [i for i in (place - 1, place, place + 1) if 0 <= i <= self._last]
            if not whole and any(i not in self._pictures for i in needed):
                break
            self._compare(place)
            self._frame += 1
            following = self._sources[self._frame :][:1] - 1
            for i in [i for i in self._pictures if len(following) and i < following[0]]:
                del self._pictures[i]
        return self._frame - begin

    def _compare(self, place: int) -> None:
        found = next(self._found, None)
        if found is None:
            raise DataError(
                f"the video of {self._tally.key} has no picture for frame {self._frame}"
            )
        source = self._pictures.get(place)
        if source is None:
            self._tally.miss()
            return
        if self._ages[self._frame] > round(self._tally.camera.max_age * 1e9):
            self._tally.stale(self._episode, self._frame)
        beside = [self._pictures.get(place + step) for step in (-1, 1)]
        known = [picture for picture in beside if picture is not None]
        self._tally.add(found, source, known, self._episode, self._frame)


def _read_video(path: Path, first: int, length: int, fps: int) -> Iterator[Shown]:
    """The pictures of an episode in order, RGB; ends early where the file does."""
    try:
        with open_video(path) as (container, stream):
            container.seek(round(first / fps / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                place = round(frame.pts * stream.time_base * fps)
                if place >= first + length:
                    return
                if place >= first:
                    yield Shown(frame.to_ndarray(format="rgb24"), bool(frame.key_frame))
    except av.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded: {shown(error)}") from error


def _coarse(picture: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return _resized(picture, *size).astype(np.float32)


def _where(episode: int, frame: int) -> str:
    return f"episode {episode} frame {frame}"


def _resized(picture: Picture, width: int, height: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
