# SPDX-License-Identifier: Apache-2.0
"""Figures over several episodes, and what they advise."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bag_samples import EPOCH, MS, SECOND, sample_contract, sample_messages, write_bag
from bag_samples import Recording as Sampled
from convert_samples import joints, shards_of

from vla_training.data.conversion.convert_episode import convert_episode
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.conversion.report import summary, why_empty
from vla_training.data.schema import Outcome
from vla_training.data.writing.video_settings import VideoSettings

SETTINGS = Settings(fps=10, min_length=0.5)


@pytest.fixture
def episodes(tmp_path):
    """A good bag, one with a pause of 0.9 s and a part that is short, and one without frames."""
    contract = sample_contract(tmp_path, cameras=False)

    def keep(_, stamp):
        return not 0.3 < (stamp - EPOCH) / SECOND < 1.2

    bags = {"good": joints(2.0), "pause": joints(3.0, keep=keep)}
    bags["none"] = [m for m in joints(1.0) if m.topic == "/joint_states"]
    reports = [
        shards_of(
            write_bag(tmp_path / name, messages), contract, tmp_path / f"{name}.job", SETTINGS
        )[1]
        for name, messages in bags.items()
    ]
    return contract, bags, reports


def test_a_recording_that_begins_late_says_what_it_waited_for(tmp_path):
    contract = sample_contract(tmp_path, cameras=False)
    begun = EPOCH + 3 * SECOND // 2
    messages = joints(3.0, keep=lambda topic, stamp: "leader" not in topic or stamp >= begun)
    path = write_bag(tmp_path / "bag", messages)
    _, report = shards_of(path, contract, tmp_path / "job", SETTINGS)
    [note] = summary([report], contract, SETTINGS)["notes"]
    begin = f"{path} at 0.000 s: 1.5 s before its first frame lack an input: actions.arm is missing"
    assert note.startswith(begin)


def test_sums_are_those_of_the_episodes(episodes):
    contract, bags, reports = episodes
    found = summary(reports, contract, SETTINGS, ["a bag: left out"])
    # 21 frames; 4 before the pause, which are too few, and 19 after it.
    assert found["totals"] == {
        "recordings": 3,
        "episodes": 2,
        "frames": 40,
        "images": 0,
        "recorded_s": pytest.approx(6.0, abs=0.01),
        "fps": 10,
        "effective_fps": 10.0,
        "coverage": pytest.approx(40 / 63, abs=1e-3),
        "frames_with_gaps": 8,
        "short_parts": 1,
        "short_frames": 4,
        "lead": sum(report.lead for report in reports),
        "tail": 0,
        "without_frames": 1,
    }
    for topic in ("/joint_states", "/leader/joint_states"):
        messages = sum(m.topic == topic for messages in bags.values() for m in messages)
        assert found["topics"][topic]["messages"] == messages
        gaps = found["topics"][topic]["gaps"]
        assert gaps["count"] == 1
        assert gaps["longest_ms"] == pytest.approx(900, abs=1)
    assert found["left_out"] == ["a bag: left out"]
    [note] = found["notes"]
    assert "no frame: actions.arm is missing: nothing was received" in note
    assert found["stages"]["all"] == pytest.approx(sum(r.seconds["all"] for r in reports), abs=0.01)
    json.dumps(found, allow_nan=False)


def test_the_worst_episode_counts(episodes):
    contract, _, (good, pause, _) = episodes
    late = {**good.frames["streams"]["arm"], "skew_ms": {"p50": 1, "p95": 2, "p99": 3, "max": 50}}
    frames = {**good.frames, "streams": {"arm": late}}
    found = summary([pause, replace(good, frames=frames)], contract, SETTINGS)
    assert found["streams"]["arm"]["skew_ms"]["max"] == 50
    assert found["streams"]["arm"]["repeats"] == 0


def test_gaps_come_with_a_remedy(episodes):
    contract, _, reports = episodes
    gaps = summary(reports, contract, SETTINGS)["gaps"]
    assert {(gap["stream"], gap["reason"]) for gap in gaps} == {
        ("actions.arm", "stale"),
        ("arm", "stale"),
    }
    hints = {gap["stream"]: gap["hint"] for gap in gaps}
    assert hints["actions.arm"] == "raise its max_age, now 500 ms; its longest silence is 900 ms"
    assert hints["arm"] == "raise its max_age, now 150 ms; its longest silence is 900 ms"


def test_a_skew_that_is_too_great_is_told_with_the_period(tmp_path):
    contract = replace(sample_contract(tmp_path), max_skew=0.04)
    recording = Sampled(seconds=2.0, camera_period=33.0)

    def shifted(message):
        stamp = message.value.header.stamp
        if message.topic.startswith("/wrist") and stamp.nanosec > 500 * MS:
            stamp.nanosec -= 60 * MS
        return message

    path = write_bag(tmp_path / "bag", [shifted(m) for m in sample_messages(recording)])
    job = EpisodeJob(0, (path,), None, None, "t", Outcome.UNKNOWN)
    settings = replace(SETTINGS, video=VideoSettings("h264"), min_length=0.1)
    report = convert_episode(job, contract, settings, tmp_path / "job", lambda _: None)
    gaps = summary([report], contract, settings)["gaps"]
    [gap] = [gap for gap in gaps if gap["reason"] == "skewed"]
    assert gap["stream"] == "wrist"
    assert gap["hint"] == "raise max_skew, now 40 ms; its period is 33 ms"


def test_an_episode_with_short_parts_only_says_how_long_they_are(episodes):
    _, _, (good, _, _) = episodes
    report = replace(good, parts=[], short_parts=[3, 4])
    assert "its longest part has 4 frames, which is less than --min-length" in why_empty(report)


def test_the_summary_of_nothing_is_a_summary(episodes):
    contract, _, (_, _, empty) = episodes
    found = summary([empty], contract, SETTINGS)
    assert found["totals"]["effective_fps"] is None
    assert np.isclose(found["totals"]["coverage"], 0)


def test_pictures_that_miss_their_frames_by_a_hair_are_named_with_a_phase_that_waits(tmp_path):
    contract = sample_contract(tmp_path)
    bag = write_bag(tmp_path / "bag", sample_messages(Sampled(seconds=4.0, jitter=2.0)))
    notes, repeats = {}, {}
    for phase in (0.0, 0.006):
        settings = replace(SETTINGS, phase=phase, video=VideoSettings("h264"))
        _, report = shards_of(bag, contract, tmp_path / f"{phase}.job", settings)
        figures = summary([report], contract, settings)
        notes[phase] = figures["notes"]
        repeats[phase] = figures["streams"]["front"]["repeats"]
    assert repeats[0.0] > 5
    assert any("camera front repeats a picture" in note for note in notes[0.0])
    assert repeats[0.006] == 0
    assert notes[0.006] == []


def test_no_phase_is_advised_that_the_command_would_refuse(tmp_path):
    contract = sample_contract(tmp_path)
    bag = write_bag(tmp_path / "bag", sample_messages(Sampled(seconds=2.0, jitter=2.0)))
    settings = replace(SETTINGS, video=VideoSettings("h264"))
    _, report = shards_of(bag, contract, tmp_path / "job", settings)
    assert "--phase" in str(summary([report], contract, settings)["notes"])
    for camera in contract.cameras:
        report.topics[camera.topic]["jitter_ms"]["p95"] = 51.0
    assert "--phase" not in str(summary([report], contract, settings)["notes"])


def test_an_episode_without_a_camera_stands_beside_one_with_it(tmp_path):
    contract = sample_contract(tmp_path)
    messages = sample_messages(Sampled(seconds=2.0))
    seen = write_bag(tmp_path / "seen", messages)
    blind = write_bag(tmp_path / "blind", [m for m in messages if m.topic != "/front/image"])
    settings = replace(SETTINGS, video=VideoSettings("h264"))
    reports = [
        shards_of(path, contract, tmp_path / f"{path.name}.job", settings)[1]
        for path in (seen, blind)
    ]
    found = summary(reports, contract, settings)
    assert found["totals"]["without_frames"] == 1
    assert [text for text in found["notes"] if "blind" in text] == [why_empty(reports[1])]
