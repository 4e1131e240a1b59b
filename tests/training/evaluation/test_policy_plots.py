# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from vla_training.evaluation.action_errors import BEST, HOLD, MEAN, POLICY, ActionErrors
from vla_training.evaluation.policy_plots import (
    EpisodeChunks,
    EpisodeSubtasks,
    plot_chunks,
    plot_errors,
    plot_subtasks,
)

HOSTILE = ["$\\frac{$", "\x1b[31m\n\u202e", "joint " * 500, ""]


def size_of(path):
    page = cv2.imread(str(path))
    assert 0.002 < (page < 250).any(axis=-1).mean() < 0.7
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    return page.shape[:2]


@pytest.mark.parametrize("joints", [1, 4, 40])
def test_errors_of_any_number_of_joints_fit_a_page(tmp_path, joints):
    names = (HOSTILE * joints)[:joints]
    predicted = np.random.default_rng(0).normal(size=(4, 9, 6, joints))
    is_pad = np.zeros((9, 6), bool)
    is_pad[:, 4:] = True
    errors = [ActionErrors.of(chunk, np.zeros((9, 6, joints)), is_pad) for chunk in predicted]
    path = tmp_path / "errors.png"
    plot_errors(path, names, dict(zip((POLICY, BEST, HOLD, MEAN), errors, strict=True)))
    height, width = size_of(path)
    assert width == 1100
    assert height < 2000


@pytest.mark.parametrize(("frames", "steps"), [([0], 1), ([0, 7, 8, 30], 5)])
def test_chunks_are_drawn_over_recordings_with_gaps(tmp_path, frames, steps):
    recorded = np.random.default_rng(0).normal(size=(33, 2))
    recorded[9:20] = np.nan
    predicted = np.random.default_rng(1).normal(size=(len(frames), steps, 2))
    path = tmp_path / "chunks.png"
    plot_chunks(path, HOSTILE[:2], 10, EpisodeChunks(0, recorded, np.array(frames), predicted))
    assert size_of(path)[0] < 1000


def test_more_subtasks_and_episodes_than_there_are_colours_and_rows_fit_a_page(tmp_path):
    texts = [*HOSTILE, *map(str, range(30))]
    lanes = {"recorded": texts, "written": texts[::-1]}
    frames = np.arange(len(texts)) * 3
    path = tmp_path / "subtasks.png"
    plot_subtasks(path, 10.0, [EpisodeSubtasks(n, frames, lanes) for n in range(20)])
    assert size_of(path)[0] < 1500


def test_subtasks_take_the_place_of_their_frames(tmp_path):
    # One stretch, from 1 s to 2 s of an episode that ends there: the left half stays white.
    frames = np.arange(10, 20)
    path = tmp_path / "subtasks.png"
    plot_subtasks(path, 10.0, [EpisodeSubtasks(0, frames, {"recorded": ["reach"] * 10})])
    page = cv2.imread(str(path))
    blue = (page == np.array((0xB2, 0x72, 0x00))).all(axis=-1)
    columns = np.flatnonzero(blue[: page.shape[0] // 2].any(axis=0))
    assert columns[0] == pytest.approx(1100 / 2, abs=60)
    assert columns[-1] > 1050
