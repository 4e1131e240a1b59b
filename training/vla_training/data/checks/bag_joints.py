# SPDX-License-Identifier: Apache-2.0
"""Checks on the joint values of a bag."""

from collections.abc import Iterator

import numpy as np

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.errors import shown
from vla_training.data.checks.findings import Finding, count
from vla_training.data.checks.joint_logs import JointLog, Times, Values
from vla_training.data.checks.motions import (
    MOVED,
    Motion,
    check_idle,
    check_jumps,
    check_limits,
    check_standstill,
    check_stuck,
)
from vla_training.data.checks.recording import Recording
from vla_training.data.frames.actions import recorded_actions
from vla_training.data.stamps import SECOND


def check_joints(recording: Recording, contract: Contract) -> Iterator[Finding]:
    """Every message has every joint, and the values are those of a robot that works."""
    for log in [*recording.states, *recording.actions]:
        yield from _check_messages(recording, log)
    factor = contract.checks.max_joint_jump
    for log in recording.states:
        motion = _motion(recording, log, contract)
        if len(motion.stamps) > 1:
            yield from check_jumps(motion, factor, "fail")
            yield from check_limits(motion)
            yield from check_standstill(motion)
            yield from check_stuck(motion, actions_at(recording, motion.stamps))
    for log in recording.actions:
        motion = _motion(recording, log, contract)
        if len(motion.stamps) > 1:
            yield from check_jumps(motion, factor, "warn")
            yield from check_limits(motion)
            yield from check_standstill(motion)
    yield from _check_idle(recording, contract)


def actions_at(recording: Recording, times: Times) -> Values:
    """(T, A) actions at these times, NaN where there are none."""
    return np.concatenate([log.at(times)[0] for log in recording.actions], axis=1)


def moving(recording: Recording, times: Times) -> np.ndarray:
    """(T,) whether a joint moved since the time before; True where nobody knows."""
    states = np.concatenate([log.at(times)[0] for log in recording.states], axis=1)
    steps = np.abs(np.diff(states, axis=0, prepend=states[:1]))
    return np.isnan(steps).any(axis=1) | (steps > MOVED).any(axis=1)


def _check_messages(recording: Recording, log: JointLog) -> Iterator[Finding]:
    topic = log.stream.topic
    for fault, (number, first) in log.faults.items():
        text = f"{shown(fault)} in {count(number, 'message')}, first at {recording.when(first)}"
        yield Finding("joints", topic, "fail", text, number, 0)
    if len(log) and not log.faults:
        text = f"{count(len(log), 'message')} with all of {', '.join(log.stream.value_names)}"
        yield Finding("joints", topic, "ok", text, 0, 0)


def _motion(recording: Recording, log: JointLog, contract: Contract) -> Motion:
    kept = log.in_order
    stamps = log.stamps[kept]
    begins = np.zeros(len(kept), bool)
    begins[:1] = True
    return Motion(
        subject=log.stream.topic,
        names=log.stream.value_names,
        values=log.values[kept],
        stamps=stamps,
        when=lambda row: recording.when(stamps[row]),
        limits=[None if i is None else contract.limits[i] for i in log.stream.limits],
        begins=begins,
    )


def _check_idle(recording: Recording, contract: Contract) -> Iterator[Finding]:
    """Actions beside measured positions, at the times that frames would have."""
    logs = [*recording.states, *recording.actions]
    stamps = [log.stamps[log.in_order] for log in logs]
    if not all(len(times) for times in stamps):
        return
    first, last = max(times[0] for times in stamps), min(times[-1] for times in stamps)
    step = round(SECOND / contract.fps)
    times = np.arange(first, last, step)
    if len(times) < 2:
        return
    states = np.concatenate([log.at(times)[0] for log in recording.states], axis=1)
    measured = states[:, list(contract.measured_index)]
    start = 0
    for source, log in zip(contract.actions, recording.actions, strict=True):
        ahead = step if recorded_actions(source).sample == "next" else 0
        part = slice(start, start + len(source.joints))
        actions = log.at(times + ahead)[0]
        start = part.stop
        yield check_idle(log.stream.topic, source.joints, actions, measured[:, part])
