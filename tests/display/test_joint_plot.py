# SPDX-License-Identifier: Apache-2.0
"""The page shows every joint, and the errors it prints are those of the run."""

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vla_nodes.display.joint_plot import SIZE, JointRun, draw_joints, plot_joints, tracking_error


def run(seed: int = 0) -> JointRun:
    """Three joints at rates that differ, the measured ones off by a random amount."""
    rng = np.random.default_rng(seed)
    commands, measurements = np.arange(200) * 0.01, np.arange(3, 90) * 0.022
    amplitude = np.array([1.0, 0.3, 0.02])
    return JointRun(
        joints=("shoulder", "elbow", "gripper"),
        units=("rad", "rad", "m"),
        command_times=commands,
        commanded=np.sin(3 * commands)[:, None] * amplitude,
        measured_times=measurements,
        measured=np.sin(3 * measurements)[:, None] * amplitude
        + rng.normal(0, 0.01, (len(measurements), 3)),
        lower=np.array([-1.02, -3.0, -0.05]),
        upper=np.array([1.02, 0.31, 0.05]),
        subtasks=[(0.0, "put the red cube in the tray"), (1.0, "put the blue cube in the tray")],
        title="clear the table",
    )


def brute_force_error(episode: JointRun) -> np.ndarray:
    """Interpolates by hand, sample by sample."""
    result = np.full(episode.measured.shape, np.nan)
    for row, time in enumerate(episode.measured_times):
        for k in range(len(episode.command_times) - 1):
            before, after = episode.command_times[k], episode.command_times[k + 1]
            if before <= time <= after:
                share = (time - before) / (after - before)
                pair = episode.commanded[k : k + 2]
                result[row] = (1 - share) * pair[0] + share * pair[1] - episode.measured[row]
    return result


def test_the_page_has_the_size_it_promises(tmp_path: Path) -> None:
    plot_joints(run(), tmp_path / "made" / "joints.png")
    page = cv2.imread(str(tmp_path / "made" / "joints.png"))
    assert page is not None
    assert page.shape == (SIZE[1], SIZE[0], 3)
    assert 0.005 < (page < 250).any(axis=-1).mean() < 0.5


def test_the_tracking_error_is_that_of_the_interpolated_command() -> None:
    np.testing.assert_allclose(tracking_error(run()), brute_force_error(run()), atol=1e-12)


def test_there_is_no_error_where_there_was_no_command() -> None:
    episode = run()
    late = replace(episode, command_times=episode.command_times + 0.5)
    known = np.isfinite(tracking_error(late)).all(axis=1)
    assert (known == (episode.measured_times >= 0.5)).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_printed_errors_match_numpy(seed: int) -> None:
    episode = run(seed)
    errors = brute_force_error(episode)
    titles = [ax.get_title(loc="right") for ax in draw_joints(episode).axes[1::2]]
    for joint, (title, unit) in enumerate(zip(titles, ("mrad", "mrad", "mm"), strict=True)):
        greatest, rms = map(float, re.findall(r"[\d.]+", title))
        assert greatest == pytest.approx(1e3 * np.nanmax(np.abs(errors[:, joint])), abs=0.006)
        assert rms == pytest.approx(1e3 * np.sqrt(np.nanmean(errors[:, joint] ** 2)), abs=0.006)
        assert title.endswith(unit)


def test_each_row_shows_the_commands_and_the_measurements() -> None:
    episode = run()
    for joint, ax in enumerate(draw_joints(episode).axes[::2]):
        drawn = [line.get_ydata() for line in ax.lines]
        for wanted in (episode.commanded[:, joint], episode.measured[:, joint]):
            assert any(np.array_equal(y, wanted) for y in drawn)
        assert ax.get_title(loc="left") == episode.joints[joint]
        assert ax.get_ylabel() == episode.units[joint]


def test_only_limits_within_view_are_drawn_and_none_stretches_it() -> None:
    episode = run()
    levels = [
        {
            float(line.get_ydata()[0])
            for line in ax.lines
            if len(line.get_ydata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]
        }
        for ax in draw_joints(episode).axes[::2]
    ]
    assert levels[:2] == [{-1.02, 1.02}, {0.31}]
    assert draw_joints(episode).axes[2].get_ylim()[0] > -1


def test_subtasks_are_marked_in_every_row_and_named_once() -> None:
    episode = run()
    page = draw_joints(episode)
    for ax in page.axes:
        marks = {line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"}
        assert marks == {0.0, 1.0}
    texts = [text.get_text().replace("\n", " ") for ax in page.axes for text in ax.texts]
    for _, subtask in episode.subtasks:
        assert texts.count(subtask) == 1


def test_a_hundred_subtasks_stay_within_their_room() -> None:
    crowd = [(0.02 * i, "put the red cube in the tray") for i in range(100)]
    page = draw_joints(replace(run(), subtasks=crowd))
    assert sum("cube" in text.get_text() for text in page.axes[0].texts) <= 1


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    hostile = "$\\frac{ ^{ \x1b[31m\n" * 100
    episode = replace(
        run(), title=hostile, joints=[hostile] * 3, units=[hostile] * 3, subtasks=[(0.0, hostile)]
    )
    plot_joints(episode, tmp_path / "joints.png")
    assert (tmp_path / "joints.png").exists()


@pytest.mark.parametrize("missing", ["commands", "measurements", "both", "numbers", "limits"])
def test_a_run_that_lacks_something_is_still_drawn(missing: str, tmp_path: Path) -> None:
    episode = run()
    if missing in ("commands", "both"):
        episode = replace(episode, command_times=np.empty(0), commanded=np.empty((0, 3)))
    if missing in ("measurements", "both"):
        episode = replace(episode, measured_times=np.empty(0), measured=np.empty((0, 3)))
    if missing == "numbers":
        episode = replace(episode, measured=np.full_like(episode.measured, np.nan))
    if missing == "limits":
        unlimited = np.full(3, np.inf)
        episode = replace(episode, lower=-unlimited, upper=unlimited)
    plot_joints(episode, tmp_path / "joints.png")
    title = draw_joints(episode).axes[1].get_title(loc="right")
    assert (title == "max -   RMS - mrad") == (missing != "limits")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"commanded": np.zeros((200, 2))}, r"commanded has shape \(200, 2\); it must have"),
        ({"units": ("rad",)}, r"units has shape \(1,\); it must have \(3,\)"),
        ({"measured_times": np.arange(87)[::-1]}, "times of JointRun.measured_times"),
        ({"subtasks": [(float("nan"), "a")]}, "times of JointRun.subtasks"),
        ({"joints": ()}, "joints is empty"),
    ],
)
def test_a_run_that_does_not_fit_together_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(run(), **change)
