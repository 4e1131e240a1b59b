# SPDX-License-Identifier: Apache-2.0
"""Checks on the pictures of a bag."""

from collections.abc import Iterator

import numpy as np

from vla_nodes.contract.schema import Checks
from vla_training.data.bags.errors import shown
from vla_training.data.checks.bag_joints import moving
from vla_training.data.checks.findings import Finding, count, graded
from vla_training.data.checks.motions import runs
from vla_training.data.checks.picture_logs import PictureLog
from vla_training.data.checks.recording import Recording


def check_pictures(recording: Recording, checks: Checks) -> Iterator[Finding]:
    """Pictures are whole, show something, and change while the robot moves."""
    for log in recording.pictures.values():
        if len(log):
            yield from _check_whole(recording, log)
            yield from _check_black(recording, log, checks)
            yield from _check_repeats(recording, log, checks)


def _check_whole(recording: Recording, log: PictureLog) -> Iterator[Finding]:
    topic = log.camera.topic
    for fault, (number, first) in log.faults.items():
        text = f"{shown(fault)} in {count(number, 'picture')}, first at {recording.when(first)}"
        yield Finding("picture", topic, "fail", text, number, 0)
    if log.headless:
        text = f"{count(log.headless, 'packet')} before the video's first key frame show nothing"
        yield Finding("picture", topic, "warn", text, log.headless, 0)
    if not log.faults and not log.headless:
        looked = len(log.looked_at[0])
        text = f"{count(len(log), 'picture')} as the contract says, {looked} of them decoded"
        yield Finding("picture", topic, "ok", text, 0, 0)


def _check_black(recording: Recording, log: PictureLog, checks: Checks) -> Iterator[Finding]:
    stamps, brightness = log.looked_at
    if not len(stamps):
        return
    black = brightness <= checks.black_level
    share = float(black.mean())
    text = f"{int(black.sum())} of {count(len(black), 'picture')} looked at are black"
    if share:
        text += f", first at {recording.when(stamps[np.argmax(black)])}"
    level = graded(share > checks.black_share, share)
    yield Finding("black", log.camera.topic, level, text, share, checks.black_share)


def _check_repeats(recording: Recording, log: PictureLog, checks: Checks) -> Iterator[Finding]:
    """A camera that hung sends one picture again and again; one at rest hardly ever does."""
    topic, stamps, repeats = log.camera.topic, log.stamps, log.repeats
    if not len(stamps):
        return
    moved = moving(recording, stamps)
    chances = int(moved[1:].sum())
    share = float((repeats & moved).sum() / max(chances, 1))
    text = f"{share:.1%} of {count(chances, 'picture')} taken in motion repeat the one before"
    level = graded(False, share > checks.duplicate_share)
    yield Finding("duplicate", topic, level, text, share, checks.duplicate_share)

    # Of the stretches that are too long one in motion is the worst, or else the longest.
    stretches = [
        (bool(moved[first:last].mean() > 0.5), last - first + 1, first - 1)
        for first, last in runs(repeats)
    ]
    grave = [stretch for stretch in stretches if stretch[1] >= checks.frozen_frames]
    if not grave:
        longest = max((length for _, length, _ in stretches), default=1)
        text = f"at most {count(longest, 'picture')} in a row the same"
        yield Finding("frozen", topic, "ok", text, longest, checks.frozen_frames)
        return
    in_motion, number, first = max(grave)
    text = f"{number} pictures in a row are the same, from {recording.when(stamps[first])}"
    text += " while the robot moves" if in_motion else " while the robot is at rest"
    yield Finding("frozen", topic, graded(in_motion, True), text, number, checks.frozen_frames)
