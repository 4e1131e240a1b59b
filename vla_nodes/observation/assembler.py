# SPDX-License-Identifier: Apache-2.0
"""Observations out of streams: one stamp, every input at that stamp, or a reason why not.

The live nodes and the converter of bags call the same code, which is what makes a policy
see on the robot what it saw in training.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_nodes.contract.schema import Camera, Contract, StateSource
from vla_nodes.observation.buffers import Frame, ImageBuffer, StateBuffer, stamp_fault
from vla_nodes.observation.codecs import Picture, check_camera, decode_camera
from vla_nodes.observation.errors import CodecError, JointError
from vla_nodes.observation.health import StreamHealth, StreamMonitor
from vla_nodes.observation.joints import JointReader, Vector
from vla_nodes.observation.observation import NotReady, Observation


class _Image:
    """A camera's stream; its state is guarded by the assembler's lock."""

    def __init__(self, camera: Camera, capacity: int) -> None:
        self.source = camera
        self.buffer = ImageBuffer(capacity)
        self.monitor = StreamMonitor()


class _State:
    """A state source's stream."""

    def __init__(self, source: StateSource, capacity: int) -> None:
        self.source = source
        self.reader = JointReader(source)
        self.buffer = StateBuffer(len(source.vector_names), capacity)
        self.monitor = StreamMonitor()


@dataclass(frozen=True)
class _Parts:
    """An observation whose frames are not decoded yet."""

    stamp: int
    frames: dict[str, Frame]
    vectors: dict[str, Vector]
    ages: dict[str, float]
    skews: dict[str, float]


class ObservationAssembler:
    """Buffers the streams of a contract and makes observations of them.

    Methods may be called from any thread. One lock guards the buffers and is never held
    while a picture is decoded, so that a slow decoder cannot delay a subscription.

    Args:
        contract: What streams there are.
        extra_states: Sources beside the contract's, such as a leader arm when converting.
        image_capacity: Frames kept per camera.
        state_capacity: Samples kept per state source.
    """

    def __init__(
        self,
        contract: Contract,
        extra_states: tuple[StateSource, ...] = (),
        image_capacity: int = 32,
        state_capacity: int = 4096,
    ) -> None:
        self._contract = contract
        self._extras = extra_states
        self._images = {c.name: _Image(c, image_capacity) for c in contract.cameras}
        sources = contract.states + extra_states
        self._states = {s.name: _State(s, state_capacity) for s in sources}
        streams: dict[str, _Image | _State] = {**self._images, **self._states}
        if len(streams) < len(contract.cameras) + len(sources):
            raise ValueError("cameras, states and extra states need names that differ")
        # The reference comes first, to be the one blamed when it is at fault.
        self._streams = {contract.reference: streams[contract.reference], **streams}
        self._max_skew = _nanoseconds(contract.max_skew)
        self._last = 0
        self._lock = threading.Lock()
        self._decoding = threading.Lock()

    def add_image(self, name: str, message: Any, stamp_ns: int, receive_ns: int) -> str | None:
        """Takes a frame in; it is decoded when an observation needs it.

        A frame that contradicts the contract keeps its place in the buffer without its
        content: an observation that would have used it is refused, and never gets the
        picture before it instead.

        Args:
            name: Of the camera.
            message: ``Image`` or ``CompressedImage``.
            stamp_ns: Of the header.
            receive_ns: By the clock that the header is stamped with; in a bag, when it was
                recorded.

        Returns:
            None, or the reason why the frame was refused.
        """
        try:
            check_camera(self._images[name].source, message)
        except CodecError as refusal:
            return self.refuse_image(name, str(refusal), stamp_ns, receive_ns)
        return self._put_image(name, message, "", stamp_ns, receive_ns)

    def refuse_image(self, name: str, error: str, stamp_ns: int, receive_ns: int) -> str:
        """Takes in that there was a frame which cannot be read.

        Args:
            name: Of the camera.
            error: Why; not empty.
            stamp_ns: As in ``add_image``.
            receive_ns: As in ``add_image``.

        Returns:
            The reason why the frame was refused.
        """
        return self._put_image(name, None, error, stamp_ns, receive_ns) or error

    def add_state(self, name: str, message: Any, stamp_ns: int, receive_ns: int) -> str | None:
        """Takes a ``JointState`` in; arguments and result are as in ``add_image``."""
        stream = self._states[name]
        with self._lock:
            stamp, fault = self._admit(stream, stamp_ns, receive_ns)
            if fault:
                return fault
            try:
                vector = stream.reader.read(message)
            except JointError as error:
                stream.monitor.fault("joints", str(error))
                return str(error)
            stream.buffer.append(stamp, vector)
        return None

    def observe(self, stamp_ns: int, now_ns: int | None = None) -> Observation | NotReady:
        """Makes the observation at exactly that stamp.

        Args:
            stamp_ns: Of the observation.
            now_ns: When given, streams whose newest sample is too old by now are stale too.
        """
        with self._lock:
            parts = self._gather(stamp_ns, now_ns)
        return self._decode(parts)

    def latest(self, now_ns: int) -> Observation | NotReady:
        """Makes the newest observation there is.

        It is the one at the reference's newest stamp. While that waits for a state sample, an
        earlier stamp serves, unless an observation as new was made before.
        """
        with self._lock:
            parts = self._gather(self._newest_stamp(now_ns), now_ns)
            if isinstance(parts, _Parts):
                self._last = parts.stamp
        return self._decode(parts)

    def newest(self, name: str) -> int | None:
        """Stamp of a stream's newest sample, ns; None before the first.

        Only a jump of the clock lets that stream take in an earlier one, so observations up to
        this stamp have all that they will get from it.
        """
        with self._lock:
            return self._streams[name].buffer.newest

    def forget(self, stamp_ns: int) -> None:
        """Lets go of the frames that no observation at that stamp or after it can use."""
        with self._lock:
            for camera in self._images.values():
                camera.buffer.forget(stamp_ns)

    def clear(self) -> None:
        """Forgets every sample; the figures for diagnostics stay."""
        with self._lock:
            self._clear()

    def health(self, now_ns: int) -> dict[str, StreamHealth]:
        """Figures by stream."""
        with self._lock:
            return {name: s.monitor.report(now_ns) for name, s in self._streams.items()}

    def _put_image(
        self, name: str, message: Any, error: str, stamp: int, receive: int
    ) -> str | None:
        stream = self._images[name]
        with self._lock:
            stamp, fault = self._admit(stream, stamp, receive)
            if fault:
                return fault
            if error:
                stream.monitor.fault("corrupt", error)
            stream.buffer.append(Frame(stamp, message, error=error))
        return error or None

    def _clear(self) -> None:
        for stream in self._streams.values():
            stream.buffer.clear()
        self._last = 0

    def _newest_stamp(self, now: int) -> int:
        """The reference's newest stamp that every state has reached, or else its newest."""
        reference = self._streams[self._contract.reference]
        newest = [stream.buffer.newest or 0 for stream in self._states.values()]
        last = reference.buffer.newest or 0
        ready = reference.buffer.bracket(min(newest, default=last)).before
        oldest = max(self._last + 1, now - _nanoseconds(reference.source.max_age))
        return last if ready is None or ready < oldest else ready

    def _admit(self, stream: _Image | _State, stamp: int, receive: int) -> tuple[int, str | None]:
        """The sample's stamp on the contract's timeline, and why it must be dropped if it must."""
        if self._contract.timeline == "receive":
            stamp = receive
        stream.monitor.receive(receive)
        newest = stream.buffer.newest
        fault = stamp_fault(stamp, newest, receive)
        if fault is None:
            return stamp, None
        stream.monitor.fault(fault, f"stamp {stamp} ns, newest {newest} ns, received {receive} ns")
        if fault != "clock_jump":
            return stamp, fault
        # Samples from before the jump, of this stream or another, mean another time now.
        self._clear()
        return stamp, None

    def _gather(self, stamp: int, now: int | None) -> _Parts | NotReady:
        """Picks the samples for a stamp."""
        spans: dict[str, tuple[int, int]] = {}
        for name, stream in self._streams.items():
            span = self._span(stream, stamp, now)
            if isinstance(span, NotReady):
                return span
            spans[name] = span
        base = stamp if now is None else now
        return _Parts(
            stamp=stamp,
            frames={name: camera.buffer.not_after(stamp) for name, camera in self._images.items()},
            vectors={name: state.buffer.interpolate(stamp) for name, state in self._states.items()},
            ages={name: (base - before) * 1e-9 for name, (before, _) in spans.items()},
            skews={name: (_nearest(span, stamp) - stamp) * 1e-9 for name, span in spans.items()},
        )

    def _span(
        self, stream: _Image | _State, stamp: int, now: int | None
    ) -> tuple[int, int] | NotReady:
        """Stamps of a stream's samples around a stamp, or why they will not do."""
        name, max_age = stream.source.name, _nanoseconds(stream.source.max_age)

        def stale(gap: int, what: str) -> NotReady:
            limit = f"max_age is {stream.source.max_age:g} s"
            return NotReady(name, "stale", f"{gap * 1e-9:.3f} s {what}, {limit}")

        newest = stream.buffer.newest
        if newest is None:
            return NotReady(name, "missing", "nothing was received")
        if now is not None and now - newest > max_age:
            return stale(now - newest, "since its newest sample")
        before, after = stream.buffer.bracket(stamp)
        if before is None:
            return NotReady(name, "missing", "no sample is as old as the stamp")
        if stamp - before > max_age:
            return stale(stamp - before, "from its last sample to the stamp")
        if after is None:
            lag = (stamp - newest) * 1e-9
            return NotReady(name, "pending", f"its newest sample is {lag:.3f} s before the stamp")
        if after - stamp > max_age:
            return stale(after - stamp, "from the stamp to its next sample")
        skew = abs(_nearest((before, after), stamp) - stamp)
        if skew > self._max_skew:
            limit = f"max_skew is {self._contract.max_skew:g} s"
            return NotReady(name, "skewed", f"{skew * 1e-9:.3f} s from the stamp, {limit}")
        return before, after

    def _decode(self, parts: _Parts | NotReady) -> Observation | NotReady:
        if isinstance(parts, NotReady):
            return parts
        images: dict[str, Picture] = {}
        for name, frame in parts.frames.items():
            picture = self._picture(self._images[name], frame)
            if picture is None:
                return NotReady(name, "corrupt", frame.error)
            images[name] = picture
        return Observation(
            stamp=parts.stamp,
            images=images,
            state=np.concatenate(
                [np.empty(0), *(parts.vectors[s.name] for s in self._contract.states)]
            ),
            extras={s.name: parts.vectors[s.name] for s in self._extras},
            ages=parts.ages,
            skews=parts.skews,
        )

    def _picture(self, stream: _Image, frame: Frame) -> Picture | None:
        """The frame's picture, decoded by whoever asks first."""
        with self._decoding:
            if frame.message is not None:
                try:
                    frame.picture = decode_camera(stream.source, frame.message)
                except CodecError as error:
                    frame.error = str(error)
                frame.message = None
                with self._lock:
                    if frame.picture is None:
                        stream.monitor.fault("corrupt", frame.error)
                    else:
                        stream.monitor.decoded(frame.picture)
            return frame.picture


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _nearest(span: tuple[int, int], stamp: int) -> int:
    return min(span, key=lambda sample: abs(sample - stamp))
