# SPDX-License-Identifier: Apache-2.0
"""The streams of a contract, as the messages of a bag come into them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from vla_nodes.contract.schema import Camera, Contract, StateSource
from vla_nodes.contract.streams import IMAGE
from vla_nodes.observation.assembler import ObservationAssembler
from vla_nodes.observation.health import StreamHealth
from vla_nodes.observation.joints import Vector
from vla_nodes.observation.observation import NotReady, Observation
from vla_training.data.bags.bag import Sample
from vla_training.data.frames.actions import (
    ActionSample,
    ActionStream,
    recorded_actions,
)
from vla_training.data.frames.video_packets import VIDEO_TYPES, Decoded, VideoDecoder
from vla_training.data.stamps import SECOND, message_stamp

_PICTURE_RATE = 250  # Hz up to which no picture makes room for another while frames wait
_STATE_RATE = 2000  # Hz, likewise for states and actions


@dataclass(frozen=True)
class Stream:
    """A camera, a state source or an action, as messages come in and frames wait for them.

    Attributes:
        name: Of the camera or state; ``actions.NAME``.
        newest: Gives the stamp of its newest sample, ns.
        add: Takes a message, the time it counts from and its receipt, ns.
        time: Gives the time a message counts from, out of its stamp and receipt.
        reach: How far after a time a sample may lie that is used at that time, ns.
        ahead: It is the next frame's time at which a frame needs it.
        observed: It is part of the observation, so that its stamps tell how late it is.
        decoder: Of a camera that sends packets of a video.
    """

    name: str
    newest: Callable[[], int | None]
    add: Callable[[Any, int, int], object]
    time: Callable[[int | None, int], int]
    reach: int = 0
    ahead: bool = False
    observed: bool = True
    decoder: VideoDecoder | None = None


class Arrival(NamedTuple):
    """A message on its way into a stream; times in ns."""

    stream: Stream
    message: Any
    time: int
    receive: int


class Moment(NamedTuple):
    """Observation and action at one time."""

    observation: Observation
    action: Vector
    ages: dict[str, float]
    skews: dict[str, float]


class Streams:
    """Everything that a contract reads from a bag.

    Args:
        contract: What streams there are.
        patience: ns that samples may have to wait for those of another stream.
    """

    def __init__(self, contract: Contract, patience: int) -> None:
        self._by_receipt = contract.timeline == "receive"
        ages = [state.max_age for state in contract.states]
        ages += [recorded_actions(action).max_age for action in contract.actions]
        wait = patience / SECOND + max(ages)
        capacity = math.ceil(_STATE_RATE * wait)
        self._assembler = ObservationAssembler(
            replace(contract, cameras=tuple(_as_image(c) for c in contract.cameras)),
            image_capacity=math.ceil(_PICTURE_RATE * wait),
            state_capacity=capacity,
        )
        self._actions = [ActionStream(a, contract.timeline, capacity) for a in contract.actions]
        routes = [
            *((camera.topic, self._camera(camera)) for camera in contract.cameras),
            *((state.topic, self._state(state)) for state in contract.states),
            *((action.recorded.topic, _action(action)) for action in self._actions),
        ]
        self.all = [stream for _, stream in routes]
        self._routes: dict[str, list[Stream]] = {}  # a topic may serve several streams
        for topic, stream in routes:
            self._routes.setdefault(topic, []).append(stream)

    def arrivals(self, samples: Iterable[Sample]) -> Iterator[Arrival]:
        """Leads messages to their streams, those of a video as decoded pictures."""
        for receive, topic, message in samples:
            stamp = message_stamp(message)
            for stream in self._routes.get(topic, ()):
                if stream.decoder is None:
                    yield Arrival(stream, message, stream.time(stamp, receive), receive)
                else:
                    yield from _decoded(stream, stream.decoder.add(message, stamp or 0, receive))
        for stream in self.all:
            if stream.decoder is not None:
                yield from _decoded(stream, stream.decoder.flush())

    def clear(self) -> None:
        """Forgets every sample; the counts of faults stay."""
        self._assembler.clear()
        for action in self._actions:
            action.clear()

    def forget(self, time: int) -> None:
        """Lets go of the pictures that no frame at a time or after it can use."""
        self._assembler.forget(time)

    def at(self, time: int, following: int) -> Moment | NotReady:
        """Observation and action of the frame at a time, given that of the next."""
        actions: dict[str, ActionSample] = {}
        for action in self._actions:  # first, since decoded pictures would be for nothing
            sample = action.at(following if action.recorded.sample == "next" else time)
            if isinstance(sample, NotReady):
                return sample
            actions[action.name] = sample
        observation = self._assembler.observe(time)
        if isinstance(observation, NotReady):
            return observation
        for name, picture in observation.images.items():
            if picture.dtype != np.uint8:
                return NotReady(name, "corrupt", f"a picture of {picture.dtype}, expected uint8")
        return Moment(
            observation,
            np.concatenate([sample.values for sample in actions.values()]),
            {**observation.ages, **{name: sample.age for name, sample in actions.items()}},
            {**observation.skews, **{name: sample.skew for name, sample in actions.items()}},
        )

    def health(self) -> dict[str, StreamHealth]:
        """Figures by stream, samples that were refused among them."""
        health = self._assembler.health(0)
        return health | {action.name: action.monitor.report(0) for action in self._actions}

    def _camera(self, camera: Camera) -> Stream:
        is_video = camera.type in VIDEO_TYPES
        return Stream(
            camera.name,
            newest=partial(self._assembler.newest, camera.name),
            add=partial(self._add_decoded if is_video else self._assembler.add_image, camera.name),
            time=self._time,
            decoder=VideoDecoder(camera) if is_video else None,
        )

    def _state(self, state: StateSource) -> Stream:
        return Stream(
            state.name,
            newest=partial(self._assembler.newest, state.name),
            add=partial(self._assembler.add_state, state.name),
            time=self._time,
            reach=round(state.max_age * 1e9),
        )

    def _time(self, stamp: int | None, receive: int) -> int:
        return receive if self._by_receipt else stamp or 0

    def _add_decoded(self, name: str, decoded: Decoded, time: int, receive: int) -> None:
        if decoded.image is None:
            self._assembler.refuse_image(name, decoded.error, time, receive)
        else:
            self._assembler.add_image(name, decoded.image, time, receive)


def _action(action: ActionStream) -> Stream:
    return Stream(
        action.name,
        newest=lambda: action.newest,
        add=action.add,
        time=action.time,
        reach=action.reach,
        ahead=action.recorded.sample == "next",
        observed=False,
    )


def _as_image(camera: Camera) -> Camera:
    """The camera as the assembler sees it: packets of a video come as decoded pictures."""
    if camera.type not in VIDEO_TYPES:
        return camera
    return replace(camera, type=IMAGE, encoding="rgb8")


def _decoded(stream: Stream, pictures: Iterable[Decoded]) -> Iterator[Arrival]:
    for decoded in pictures:
        time = stream.time(decoded.stamp, decoded.receive)
        yield Arrival(stream, decoded, time, decoded.receive)
