# SPDX-License-Identifier: Apache-2.0
"""``vla-plot value`` from the command line to its files."""

import av
import numpy as np
import pytest
from evaluation_samples import FPS
from labelled_samples import make_checkpoint, make_labelled

from vla_nodes.display.value_overlay import HEIGHT, WIDTH
from vla_training.data.labels.frame_labels import Settings
from vla_training.evaluation.plot import main

LENGTHS = (12, 9, 14, 8)
LABELS = Settings()


def plot(checkpoint, dataset, out, *words):
    words = ["value", str(checkpoint), str(dataset), "--out", str(out), *words]
    return main([*words, "--workers", "0"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_labelled(tmp_path_factory.mktemp("set") / "data", LENGTHS, "sfsu", LABELS_SKIP)


LABELS_SKIP = Settings(unknown="skip")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("value") / "value", LABELS)


@pytest.fixture(scope="module")
def drawn(dataset, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("plots") / "new" / "folder"
    assert plot(checkpoint, dataset, out, "--episodes", "0,3", "--camera", "front") == 0
    return out


def test_every_episode_has_a_picture_and_a_video(drawn):
    names = [f"episode_00000{n}.{kind}" for n in (0, 3) for kind in ("mp4", "png")]
    assert sorted(path.name for path in drawn.iterdir()) == [*names, "overview.png"]


def test_a_video_lasts_as_long_as_its_episode_and_a_moment(drawn):
    with av.open(str(drawn / "episode_000000.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    assert len(frames) == LENGTHS[0] + round(1.5 * FPS)
    # The end stands still.
    assert np.abs(frames[-1].astype(int) - frames[LENGTHS[0]]).mean() < 1
    assert np.abs(frames[0].astype(int) - frames[LENGTHS[0] - 1]).mean() > 1


def test_without_labels_no_return_is_drawn_and_that_is_said(checkpoint, tmp_path, capsys):
    plain = make_labelled(tmp_path / "data", (5, 6), "sf")
    words = ("--episodes", "all", "--no-video", "--stride", "2")
    assert plot(checkpoint, plain, tmp_path / "out", *words) == 0
    assert "no returns are drawn" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.mp4"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--camera", "top"), "expected one of wrist, front"),
        (("--pictures", "0"), "--pictures is 0"),
        (("--pictures", "99"), "expected at most"),
        (("--episodes", "9"), "names 9"),
    ],
)
def test_words_that_make_no_sense_are_refused(checkpoint, dataset, tmp_path, capsys, words, said):
    assert plot(checkpoint, dataset, tmp_path / "out", *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vla-plot: ")
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_no_folder_is_refused(checkpoint, dataset, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert plot(checkpoint, dataset, tmp_path / "out", "--episodes", "0") == 1
    assert "cannot be written" in capsys.readouterr().err
