# SPDX-License-Identifier: Apache-2.0
"""Pictures of a dataset against those of a bag, episode by episode and in one pass each."""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from vla_nodes.contract.schema import Contract
from vla_nodes.observation.codecs import decode_camera
from vla_nodes.observation.errors import CodecError
from vla_training.data.bags.bag import Bag
from vla_training.data.bags.errors import shown
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.joint_logs import Times, in_order
from vla_training.data.checks.picture_tally import Picture, PictureTally, Shown
from vla_training.data.checks.video_scan import open_video
from vla_training.data.errors import DataError
from vla_training.data.frames.video_packets import VIDEO_TYPES
from vla_training.data.schema import BAG_TIME
from vla_training.data.stamps import message_stamp


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
        stamp = None if contract.timeline == "receive" else message_stamp(message)
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
