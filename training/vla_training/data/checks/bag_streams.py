# SPDX-License-Identifier: Apache-2.0
"""Checks on when messages come: topics, stamps, delays, rates, gaps and skews."""

from collections.abc import Iterator

import numpy as np

from vla_nodes.contract.schema import Contract
from vla_nodes.contract.streams import JOINT_STATE
from vla_nodes.observation.buffers import FUTURE_NS, REORDER_NS
from vla_training.data.bags.bag import Bag
from vla_training.data.bags.errors import shown
from vla_training.data.checks.findings import Finding, count, graded
from vla_training.data.checks.joint_logs import Times
from vla_training.data.checks.joint_streams import action_streams
from vla_training.data.checks.recording import Recording, StampLog
from vla_training.data.frames.actions import recorded_actions

_OTHER_CLOCK = 1e6  # s; no transport takes days
_SLACK = 0.9  # of a rate, for jitter at the ends


def streams_of(contract: Contract) -> dict[str, tuple[str, str]]:
    """What the contract reads: (type, what it is) by topic."""
    streams = {c.topic: (c.type, f"camera {c.name}") for c in contract.cameras}
    streams |= {a.topic: (a.type, f"action {a.name}") for a in action_streams(contract)}
    return streams | {s.topic: (JOINT_STATE, f"state {s.name}") for s in contract.states}


def check_topics(bag: Bag, contract: Contract) -> Iterator[Finding]:
    """Every topic is there, of its type, and has messages."""
    for topic, (kind, what) in streams_of(contract).items():
        found = bag.topics.get(topic)
        if found is None:
            yield Finding("topic", topic, "fail", f"{what} is not in the bag")
        elif found.type != kind:
            text = f"{what} is a {shown(found.type)}; the contract says {kind}"
            yield Finding("topic", topic, "fail", text)
        elif not found.count:
            yield Finding("topic", topic, "fail", f"{what} has no messages", 0)
        else:
            yield Finding("topic", topic, "ok", f"{what}, {kind}", found.count)


def check_stamps(recording: Recording) -> Iterator[Finding]:
    """Stamps are set, not ahead of their receipt, and rise from message to message."""
    for topic, log in recording.stamps.items():
        stamps, receives = log.stamps, log.receives
        future = stamps > receives + FUTURE_NS
        sane = np.flatnonzero((stamps > 0) & ~future)
        newest = np.maximum.accumulate(np.concatenate([[0], stamps[sane]]))[:-1]
        behind = newest - stamps[sane]
        faults = {
            "empty": np.flatnonzero(stamps <= 0),
            "in the future of their receipt": np.flatnonzero(future),
            "set back by half a second or more": sane[behind >= REORDER_NS],
            "before the one before": sane[(behind > 0) & (behind < REORDER_NS)],
            "the same as the one before": sane[(behind == 0) & (newest > 0)],
        }
        parts = [
            f"{count(len(places), 'stamp')} {what}, first at {recording.when(receives[places[0]])}"
            for what, places in faults.items()
            if len(places)
        ]
        bad = sum(len(places) for places in faults.values())
        grave = any(len(places) for places in list(faults.values())[:3])
        text = "; ".join(parts) or "every stamp is set and rises"
        yield Finding("stamps", topic, graded(grave, bad), text, bad, 0)


def check_delays(recording: Recording, contract: Contract) -> Iterator[Finding]:
    """Messages arrive soon after their stamp; a long delay is a clock that differs."""
    if contract.timeline == "receive":
        return
    limit = contract.checks.max_delay
    for topic, log in recording.stamps.items():
        set_ = log.stamps > 0
        if not set_.any() or (log.stamps == log.receives).all():  # no stamps but the receipt's
            continue
        delays = (log.receives - log.stamps)[set_] * 1e-9
        median, last = float(np.median(delays)), int(np.argmax(delays))
        if abs(median) > _OTHER_CLOCK:
            text = "the stamps are of another clock than the recorder's, such as a simulator's"
            yield Finding("delay", topic, "warn", text, median, limit)
            continue
        text = (
            f"median {median * 1e3:.1f} ms, at most {delays[last] * 1e3:.1f} ms "
            f"at {recording.when(log.receives[set_][last])}"
        )
        yield Finding("delay", topic, graded(median > limit), text, median, limit)


def check_rates(recording: Recording, contract: Contract) -> Iterator[Finding]:
    """Joint states come often enough to interpolate, pictures as often as frames are made."""
    slow = _SLACK * contract.fps
    joints = contract.checks.min_joint_rate or slow
    for source in contract.states:
        if (rate := _rate(recording.stamps.get(source.topic))) is not None:
            text = f"{rate:.1f} Hz on average"
            yield Finding("rate", source.topic, graded(rate < joints), text, rate, joints)
    for camera in contract.cameras:
        if (rate := _rate(recording.stamps.get(camera.topic))) is not None:
            text = f"{rate:.1f} Hz on average"
            if rate < slow:
                text += f": at {contract.fps:g} frames a second pictures are used more than once"
            yield Finding("rate", camera.topic, graded(False, rate < slow), text, rate, slow)


def check_gaps(recording: Recording, contract: Contract) -> Iterator[Finding]:
    """No stream is silent for longer than conversion bears."""
    lost = contract.checks.max_camera_gap or 2.5 / contract.fps
    streams: list[tuple[str, Times, Times, float, float]] = []
    for camera in contract.cameras:
        stamps = _rising(recording, camera.topic)
        streams.append((camera.topic, stamps, stamps, lost, camera.max_age))
    for state in contract.states:
        stamps = _rising(recording, state.topic)
        streams.append((state.topic, stamps, stamps, state.max_age, state.max_age))
    for action, log in zip(contract.actions, recording.actions, strict=True):
        recorded, kept = recorded_actions(action), log.in_order
        age = recorded.max_age
        streams.append((recorded.topic, log.stamps[kept], log.ends[kept], age, age))
    for topic, stamps, ends, wanted, most in streams:
        if len(stamps) < 2:
            continue
        gaps = (stamps[1:] - ends[:-1]) * 1e-9
        longest = int(np.argmax(gaps))
        gap = float(gaps[longest])
        limit = most if gap > most else min(wanted, most)
        text = f"longest {gap:.3f} s, from {recording.when(ends[longest])}"
        if gap > limit:
            text = f"{count(int((gaps > limit).sum()), 'gap')} over the limit, {text}"
        if gap > most:
            text += "; conversion has no frame there"
        yield Finding("gap", topic, graded(gap > most, gap > limit), text, gap, limit)


def check_skews(recording: Recording, contract: Contract) -> Iterator[Finding]:
    """At the reference's stamps, where all streams overlap, every other input is near."""
    limit = contract.checks.max_skew or contract.max_skew
    cameras = {camera.name: camera.topic for camera in contract.cameras}
    topics = cameras | {source.name: source.topic for source in contract.states}
    stamps = {name: _rising(recording, topic) for name, topic in topics.items()}
    if not all(len(times) for times in stamps.values()):
        return
    first = max(times[0] for times in stamps.values())
    last = min(times[-1] for times in stamps.values())
    reference = stamps.pop(contract.reference)
    reference = reference[(reference >= first) & (reference <= last)]
    if not len(reference):
        text = "the streams never overlap in time"
        yield Finding("skew", topics[contract.reference], "fail", text)
        return
    for name, times in stamps.items():
        skews = _skews(times, reference, interpolated=name not in cameras) * 1e-9
        worst = int(np.argmax(skews))
        skew = float(skews[worst])
        over = int((skews > limit).sum())
        text = (
            f"{over} of {len(skews)} over the limit, "
            f"{skew:.3f} s from {contract.reference} at {recording.when(reference[worst])}"
        )
        yield Finding("skew", topics[name], graded(over), text, skew, limit)


def _skews(times: Times, reference: Times, interpolated: bool) -> Times:
    """From each reference stamp to the nearest sample, or to the newest that is not after it."""
    before = np.searchsorted(times, reference, side="right") - 1
    behind = reference - times[before]
    if not interpolated:
        return behind
    after = np.minimum(before + 1, len(times) - 1)
    return np.minimum(behind, np.abs(times[after] - reference))


def _rising(recording: Recording, topic: str) -> Times:
    return recording.stamps[topic].rising if topic in recording.stamps else np.zeros(0, np.int64)


def _rate(log: StampLog | None) -> float | None:
    """Hz over the whole recording; None below two messages."""
    if log is None:
        return None
    stamps = log.rising
    return (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * 1e-9) if len(stamps) > 1 else None
