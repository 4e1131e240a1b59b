# SPDX-License-Identifier: Apache-2.0
"""Messages of a bag to frames on a grid of exact times."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vla_nodes.contract.schema import Contract
from vla_nodes.observation.buffers import stamp_fault
from vla_nodes.observation.codecs import Picture
from vla_nodes.observation.joints import Vector
from vla_nodes.observation.observation import NotReady
from vla_training.data.bags.bag import Sample
from vla_training.data.bags.errors import shown
from vla_training.data.frames.streams import Arrival, Stream, Streams
from vla_training.data.stamps import SECOND

PATIENCE = SECOND
"""ns by which a stream may come later than another before frames are made without it."""

BREAK = 60 * SECOND
"""ns that no stamp may lie ahead of all before it without a new grid beginning."""


@dataclass(frozen=True)
class Frame:
    """Everything at one time of the grid.

    Attributes:
        index: Place in the grid; one more than that of the frame or gap before.
        stamp: ns.
        pictures: By camera, (H, W, 3) uint8 RGB after cropping; not to be written to.
        state: (S,) float64, ordered like ``Contract.state_names``.
        action: (A,) float64, ordered like ``Contract.action_names``.
        ages: Seconds by stream, from its sample at or before ``stamp`` to ``stamp``; those of
            actions under ``actions.NAME``, from the time that they are of.
        skews: Seconds by stream, likewise, to the nearest sample used.
    """

    index: int
    stamp: int
    pictures: Mapping[str, Picture]
    state: Vector
    action: Vector
    ages: Mapping[str, float]
    skews: Mapping[str, float]


@dataclass(frozen=True)
class Gap:
    """A time of the grid that lacks something.

    Attributes:
        index: As of a frame.
        stamp: ns.
        stream: To blame: a camera, a state source, or ``actions.NAME``.
        reason: As of ``NotReady``; or ``clock_jump``, after which a new grid begins.
        detail: In words, on one line.
    """

    index: int
    stamp: int
    stream: str
    reason: str
    detail: str


def grid_offset(steps: int, fps: int) -> int:
    """Time from one frame to the one ``steps`` later in ns, rounded once and half up."""
    return (2 * steps * SECOND + fps) // (2 * fps)


class FrameSource:
    """Makes the frames of one recording.

    The grid begins at the stamp of the reference's first sample for which everything is there,
    or the phase after it; time k lies k / fps later, rounded to whole ns; the last time is the
    last for which everything is there. Each time gives a ``Frame``, by the very code that makes
    the robot's observations, or a ``Gap``.

    A frame is made once nothing can change it any more: every stream has come to its time, or
    another is ``PATIENCE`` ahead of it. So little waits in memory, and a picture that no frame
    uses is not decoded.

    Where the stamps of a stream step back by half a second or more, or forward by ``BREAK``, the
    grid ends as it does with the recording, and another begins as the first did. Between them is
    one ``Gap`` with the reason ``clock_jump``. No sample from before the jump is used after it.

    Args:
        contract: What streams there are.
        fps: Frames per second.
        phase: ns; see ``Settings.phase``.

    Attributes:
        lead: Samples of the reference before the first frame of a grid, over all grids.
        tail: Times after the last frame of a grid for which something came, over all grids.
    """

    def __init__(self, contract: Contract, fps: int, phase: int = 0) -> None:
        self.lead = self.tail = 0
        self._refusals: Counter[tuple[str, str]] = Counter()  # by stream and reason
        self._details: dict[tuple[str, str], str] = {}  # of the first of each
        self._fps = fps
        self._phase = phase
        self._reference = contract.reference
        self._streams = Streams(contract, PATIENCE)
        self._jumps: Counter[str] = Counter()
        self._index = 0  # of the next item
        self._last = 0  # time of the last frame
        self._held: list[Gap] = []  # until a frame shows that they are not the tail
        self._longest: list[Gap] = []  # tail of a grid
        self._begin()

    def _begin(self) -> None:
        self._start: int | None = None  # of the grid
        self._first = self._index  # index of its first frame
        self._starts: deque[int] = deque()  # stamps that the grid may begin at
        self._front = 0  # newest stamp of all that was observed

    def frames(self, messages: Iterable[Sample]) -> Iterator[Frame | Gap]:
        """Makes one item for each time of the grid, in order; to be called once.

        Args:
            messages: Of the topics that ``topics.topics_of`` gives, in order of receipt.
        """
        for arrival in self._streams.arrivals(messages):
            if jump := self._find_jump(arrival):
                yield from self._end()
                self._jump(arrival.stream, jump)
            self._take(arrival)
            yield from self._made()
        yield from self._end()

    @property
    def refusal(self) -> str:
        """What samples of the reference lacked that could not begin a grid, in the most cases."""
        most = self._refusals.most_common(1)
        stream, reason = most[0][0] if most else (self._reference, "missing")
        detail = self._details.get((stream, reason), "nothing was received")
        text = f"{stream} is {reason}: {detail}"
        counts = ", ".join(f"{n} {reason}" for reason, n in self.faults()[stream].items())
        last = shown(self._streams.health()[stream].last_fault, 300)
        return f"{text}; refused samples: {counts}; the last: {last}" if counts else text

    @property
    def ending(self) -> str:
        """What lacked after the last frame, in the most cases; of several grids, in the longest."""
        most = Counter((gap.stream, gap.reason) for gap in self._longest).most_common(1)
        found = (g for g in self._longest if most and (g.stream, g.reason) == most[0][0])
        return next((f"{gap.stream} is {gap.reason}: {gap.detail}" for gap in found), "")

    def faults(self) -> dict[str, dict[str, int]]:
        """Samples that were refused, by stream and reason, and jumps of the clock."""
        health = self._streams.health()
        faults = {name: dict(stream.faults) for name, stream in health.items()}
        for name, count in self._jumps.items():
            faults[name]["clock_jump"] = count
        return faults

    def _find_jump(self, arrival: Arrival) -> str:
        """What an arrival says about a jump of the clock; empty where it says nothing."""
        stream, _, time, receive = arrival
        newest = stream.newest()
        fault = stamp_fault(time, newest, receive)
        if fault == "clock_jump" and newest is not None:
            return f"stamps step back by {(newest - time) / SECOND:.3f} s"
        ahead = time - self._front
        if fault is None and stream.observed and self._front and ahead > BREAK:
            return f"stamps step forward by {ahead / SECOND:.3f} s"
        return ""

    def _jump(self, stream: Stream, detail: str) -> None:
        self._jumps[stream.name] += 1
        self._streams.clear()
        if self._index:
            stamp = self._last + grid_offset(1, self._fps)
            self._held = [Gap(self._index, stamp, stream.name, "clock_jump", detail)]
            self._index += 1
        self._begin()

    def _take(self, arrival: Arrival) -> None:
        stream, message, time, receive = arrival
        before = stream.newest()
        stream.add(message, time, receive)
        newest = stream.newest()
        if newest is None or newest == before or not stream.observed:
            return
        self._front = max(self._front, newest)
        if self._start is None:
            if stream.name == self._reference:
                self._starts.append(newest + self._phase)
            self._streams.forget(self._starts[0] if self._starts else self._front - PATIENCE)

    def _made(self) -> Iterator[Frame | Gap]:
        """What nothing can change any more."""
        while (times := self._next()) is not None and self._is_settled(*times):
            yield from self._make(*times)

    def _end(self) -> Iterator[Frame | Gap]:
        """What is left when nothing more comes."""
        while (times := self._next()) is not None and times[0] <= self._front:
            yield from self._make(*times)
        tail = [gap for gap in self._held if gap.reason != "clock_jump"]
        self.tail += len(tail)
        self._longest = max(self._longest, tail, key=len)
        self._index -= len(self._held)
        self._held = []

    def _next(self) -> tuple[int, int] | None:
        """The time of the next frame, and of the one after it."""
        if self._start is None:
            if not self._starts:
                return None
            return self._starts[0], self._starts[0] + grid_offset(1, self._fps)
        steps = self._index - self._first
        here, there = (grid_offset(steps + ahead, self._fps) for ahead in (0, 1))
        return self._start + here, self._start + there

    def _is_settled(self, time: int, following: int) -> bool:
        """Whether nothing that may still come belongs into the frame at a time."""
        for stream in self._streams.all:
            wanted = following if stream.ahead else time
            newest = stream.newest()
            if newest is not None and newest >= wanted:
                continue
            late = self._front - wanted - PATIENCE
            # A sample after the time counts only if the one before it is not too old.
            is_dead = newest is None or wanted - newest > stream.reach
            if late <= (0 if is_dead else stream.reach):
                return False
        return True

    def _make(self, time: int, following: int) -> Iterator[Frame | Gap]:
        moment = self._streams.at(time, following)
        if self._start is None:
            self._starts.popleft()
            if isinstance(moment, NotReady):
                self.lead += 1
                key = moment.stream, moment.reason
                self._refusals[key] += 1
                self._details.setdefault(key, shown(moment.detail, 300))
                return
            self._start, self._first = time, self._index
        if isinstance(moment, NotReady):
            detail = shown(moment.detail, 300)
            self._held.append(Gap(self._index, time, moment.stream, moment.reason, detail))
        else:
            yield from self._held
            self._held = []
            self._last = time
            seen, action, ages, skews = moment
            yield Frame(self._index, time, seen.images, seen.state, action, ages, skews)
        self._index += 1
        self._streams.forget(time)
