# SPDX-License-Identifier: Apache-2.0
"""One episode on disk: a rosbag2 folder of one or more MCAP files.

While it is being recorded the folder holds ``episode.json`` with the state ``recording`` and no
``metadata.yaml``; afterwards both, and the state is ``complete``.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from vla_nodes.recording.errors import RecordingError
from vla_nodes.recording.mcap_file import Channel, McapFile
from vla_nodes.recording.metadata import custom_data, metadata_yaml
from vla_nodes.recording.report import Ending, Facts, Report, Tally, TopicReport
from vla_nodes.recording.streams import Stream

CHUNK = 4 << 20  # bytes after which a chunk ends
RESERVE = 1 << 18  # bytes kept on the disk for closing an episode when it is full
MAX_NAMES = 1000  # tries to find a name that nobody else took


@dataclass(frozen=True)
class Options:
    """How episodes are written.

    Attributes:
        compress: Compress with zstd.
        split_size: Bytes after which the next file begins; 0 for one file.
        min_free: Bytes that must stay free on the disk.
    """

    compress: bool = False
    split_size: int = 0
    min_free: int = 0


class EpisodeWriter:
    """Writes one episode; not for use from more than one thread at a time.

    Args:
        root: Folder of the episodes.
        streams: What is recorded.
        channels: The same as topics of the bag.
        facts: What the episode is about.
        options: How it is written.

    Raises:
        OSError: The folder cannot be made.
        RecordingError: There is too little room on the disk.
    """

    def __init__(
        self,
        root: Path,
        streams: Sequence[Stream],
        channels: Sequence[Channel],
        facts: Facts,
        options: Options,
    ) -> None:
        self._streams = streams
        self._channels = channels
        self._facts = facts
        self._options = options
        self._tallies = [Tally() for _ in channels]
        self._waiting: list[tuple[int, int, int]] = []
        self._waiting_size = 0
        self._files: list[tuple[str, Tally]] = []
        self.size = 0
        self._check_room(root)
        self.folder = _make_folder(root, facts.started)
        try:
            self._reserve = self.folder / ".reserve"
            self._reserve.write_bytes(b"\1" * RESERVE)
            self._describe("recording", None, {})
            self._begin_file()
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    def write(self, channel: int, stamp: int, data: bytes) -> None:
        """Take a message; it is on its way to the disk after the next ``flush``.

        Args:
            channel: Index into ``channels``.
            stamp: Time of receipt, ns; never less than the one before.
            data: Serialized message.

        Raises:
            OSError: The disk is full or gone.
            RecordingError: There is too little room, or somebody changed the file.
        """
        if self._is_full():
            self._file.finish({})
            self._begin_file()
        self._file.add(channel, stamp, data)
        self._waiting.append((channel, stamp, len(data)))
        self._waiting_size += len(data)
        if self._waiting_size >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system; raises as ``write`` does."""
        if self._waiting:
            self._commit()
        self._check_room(self.folder)

    def close(self, ending: Ending, received: Sequence[int]) -> Report:
        """End the episode, readable even where the disk is full.

        Args:
            ending: How it ended; where the last messages cannot be written the reason says
                so, and the outcome is unknown.
            received: Messages that were sent to here, per channel.

        Raises:
            OSError: Not even the room that was kept for this is there.
        """
        self._reserve.unlink(missing_ok=True)
        problems = [ending.reason] if ending.reason else []
        try:
            if self._waiting:
                self._commit()
        except (OSError, RecordingError) as error:
            problems.append(getattr(error, "strerror", None) or str(error))
            ending = replace(ending, outcome="unknown")
        try:
            self._file.finish(custom_data(self._facts, ending))
        except OSError as error:
            problems.append(error.strerror or str(error))
        ending = replace(ending, reason="; ".join(dict.fromkeys(problems)))
        report = self._report(ending, received)
        text = metadata_yaml(report, self._channels, self._files, custom_data(self._facts, ending))
        _write_aside(self.folder / "metadata.yaml", text)
        self._describe("complete", ending, report.document())
        return report

    def discard(self, ending: Ending, received: Sequence[int]) -> Report:
        """Remove the episode.

        Raises:
            OSError: It cannot be removed.
        """
        with contextlib.suppress(OSError):
            self._file.finish({})
        # What is left of it where its removal is interrupted must not look like an episode.
        gone = self.folder.rename(self.folder.with_name(f".{self.name}.discarded"))
        shutil.rmtree(gone)
        return self._report(ending, received)

    def _commit(self) -> None:
        self._file.flush()
        for channel, stamp, size in self._waiting:
            self._tallies[channel].add(stamp, size)
            self._files[-1][1].add(stamp, size)
        self.size += self._waiting_size
        self._waiting.clear()
        self._waiting_size = 0

    def _is_full(self) -> bool:
        split = self._options.split_size
        between_chunks = self._files[-1][1].messages and not self._waiting
        return bool(split and between_chunks and self._file.size >= split)

    def _begin_file(self) -> None:
        path = self.folder / f"{self.name}_{len(self._files)}.mcap"
        self._file = McapFile(path, self._channels, self._options.compress)
        self._files.append((path.name, Tally()))

    def _report(self, ending: Ending, received: Sequence[int]) -> Report:
        topics = [
            TopicReport(stream.topic, stream.type, stream.needed, tally, count - tally.messages)
            for stream, tally, count in zip(self._streams, self._tallies, received, strict=True)
        ]
        return Report(self.name, ending, topics)

    def _describe(self, state: str, ending: Ending | None, report: dict[str, Any]) -> None:
        document = {"state": state, **custom_data(self._facts, ending), **report}
        text = json.dumps(document, indent=2, ensure_ascii=False)
        _write_aside(self.folder / "episode.json", text)

    def _check_room(self, folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        if free < self._options.min_free:
            raise RecordingError(
                f"only {free / 1e6:.0f} MB are free on the disk of {folder.name}, "
                f"and {self._options.min_free / 1e6:.0f} MB must stay free"
            )


def _make_folder(root: Path, started: datetime) -> Path:
    """A new folder named after the time of day, and a number that grows within the root."""
    earlier = (re.fullmatch(r"[\d-]{10}T[\d-]{8}Z_(\d{4,9})", f.name) for f in root.iterdir())
    number = max((int(match[1]) for match in earlier if match), default=0)
    for _ in range(MAX_NAMES):
        number += 1
        folder = root / f"{started:%Y-%m-%dT%H-%M-%SZ}_{number:04d}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise RecordingError(f"no free name for an episode in {root}")


def _write_aside(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
