# SPDX-License-Identifier: Apache-2.0
"""Pages that hold what they should, wherever that can be told from their pixels."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from labelled_samples import make_frames

from vla_training.data.schema import Outcome
from vla_training.evaluation.value_baselines import CONSTANT, ELAPSED_TIME
from vla_training.evaluation.value_episodes import EpisodeValues
from vla_training.evaluation.value_evaluation import MODEL
from vla_training.evaluation.value_metrics import measure
from vla_training.evaluation.value_pages import plot_episode, plot_overview
from vla_training.evaluation.value_plots import plot_calibration, plot_values

ATOMS = -1 + 0.005 * np.arange(201)
HOSTILE = ["$\\frac{$", "\x1b[31m\n\u202e", "reach " * 500, ""]


class Episode(EpisodeValues):
    """With pictures of one grey level for each camera, 32 x 24 px."""

    def picture(self, camera, _):
        return np.full((24, 32, 3), 200 if camera == "front" else 60, np.uint8)


def bump(centre, width=0.03):
    mass = np.exp(-0.5 * ((ATOMS - np.asarray(centre)[:, None]) / width) ** 2)
    return (mass / mass.sum(-1, keepdims=True)).astype(np.float32)


def episode(length, outcome=Outcome.SUCCESS, number=0, task="tidy up", subtasks=("",), **changes):
    table = SimpleNamespace(
        episode=np.repeat(np.arange(number + 1), length),
        subtask=[subtasks[k % len(subtasks)] for k in range((number + 1) * length)],
    )
    told = {
        "items": SimpleNamespace(table=table),
        "episode": number,
        "task": task,
        "outcome": outcome,
        "fps": 10,
        "frames": np.arange(length),
        "probabilities": bump(np.linspace(-0.8, -0.2, length)),
        "returns": np.linspace(-0.9, 0.0, length),
    }
    return Episode(**(told | changes))


def read(path):
    page = cv2.imread(str(path))[..., ::-1]
    assert 0.002 < (page < 250).any(axis=-1).mean() < 0.8
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    return page


def places(page, colour):
    """Rows and columns of pixels of a colour (#rrggbb)."""
    return np.nonzero((page == tuple(bytes.fromhex(colour[1:]))).all(axis=-1))


@pytest.mark.parametrize("length", [1, 2, 5, 300])
@pytest.mark.parametrize("cameras", [("front",), ("front", "wrist")])
def test_an_episode_of_any_length_fits_a_page(tmp_path, length, cameras):
    plot_episode(tmp_path / "page.png", episode(length), cameras, 9)
    height, width, _ = read(tmp_path / "page.png").shape
    assert width == 1200
    assert height < 1200


def test_hostile_texts_and_many_subtasks_fit_a_page(tmp_path):
    texts = [*HOSTILE, *(f"step {k}" for k in range(30))]
    hostile = episode(200, task=HOSTILE[2], subtasks=texts)
    plot_episode(tmp_path / "page.png", hostile, [HOSTILE[0]], 24)
    assert read(tmp_path / "page.png").shape[1] == 1200


def test_the_heat_lies_where_the_distribution_does(tmp_path):
    """A certain value of -0.25, and after half of the time one of -0.75; no return."""
    step = np.where(np.arange(40) < 20, -0.25, -0.75)
    unlabelled = np.full(40, np.nan)
    one = episode(40, probabilities=bump(step, 0.01), returns=unlabelled)
    plot_episode(tmp_path / "page.png", one, ["front"], 1)
    page = read(tmp_path / "page.png").astype(int)
    blue = (page[..., 2] - page[..., 0] > 60)[110:460]  # the curve's rows
    for part, value in ((slice(100, 600), -0.25), (slice(660, 1150), -0.75)):
        rows, _ = np.nonzero(blue[:, part])
        # 0 is at 102 px and -1 at 458 px from the top of a page of 100 px to the inch.
        assert rows.mean() + 110 == pytest.approx(102 - 356 * value, abs=6)


@pytest.mark.parametrize(
    ("outcome", "colour"),
    [(Outcome.SUCCESS, "#3cc29a"), (Outcome.FAILURE, "#ef6155"), (Outcome.UNKNOWN, "#8a919b")],
)
def test_the_end_has_the_colour_of_the_outcome(tmp_path, outcome, colour):
    plot_episode(tmp_path / "page.png", episode(30, outcome), ["front"], 3)
    rows, columns = places(read(tmp_path / "page.png"), colour)
    at_end = rows[columns > 1165]
    assert at_end.max() - at_end.min() > 300


def test_pictures_of_each_camera_have_a_row_at_even_places(tmp_path):
    plot_episode(tmp_path / "page.png", episode(90), ["front", "wrist"], 6)
    page = read(tmp_path / "page.png")
    for level in (200, 60):
        rows, columns = places(page, f"#{level:02x}{level:02x}{level:02x}")
        inside = rows > 460
        row = np.bincount(columns[inside], minlength=1200) > 50
        starts = np.flatnonzero(np.diff(row.astype(int)) == 1)
        assert len(starts) == 6
        assert np.ptp(np.diff(starts)) <= 2


def test_an_unlabelled_episode_has_no_return(tmp_path):
    counts = {}
    for name, value in (("no", np.nan), ("some", -0.4)):
        (tmp_path / name).mkdir()
        one = episode(30, returns=np.full(30, value))
        plot_episode(tmp_path / name / "page.png", one, ["front"], 3)
        counts[name] = len(places(read(tmp_path / name / "page.png"), "#e69f00")[0])
    assert counts["no"] == 0
    assert counts["some"] > 500


@pytest.mark.parametrize("count", [1, 3, 60])
def test_an_overview_holds_any_number_of_episodes(tmp_path, count):
    outcomes = [Outcome.FAILURE, Outcome.SUCCESS, Outcome.UNKNOWN]
    shown = [episode(5 + k, outcomes[k % 3], k, HOSTILE[k % 4]) for k in range(count)]
    plot_overview(tmp_path / "page.png", shown)
    assert max(read(tmp_path / "page.png").shape) < 2300


def test_an_overview_puts_successes_first(tmp_path):
    shown = [episode(9, Outcome.FAILURE, 0), episode(9, Outcome.SUCCESS, 1)]
    plot_overview(tmp_path / "page.png", shown)
    page = read(tmp_path / "page.png")
    green, red = (places(page, colour)[1].mean() for colour in ("#3cc29a", "#ef6155"))
    assert green < page.shape[1] / 2 < red


@pytest.mark.parametrize("outcomes", ["s", "sfu", "f" * 50])
def test_values_of_all_episodes_fit_a_page(tmp_path, outcomes):
    frames = make_frames((12,) * len(outcomes), outcomes=outcomes, tasks="a" * len(outcomes))
    plot_values(tmp_path / "values.png", 10.0, frames, bump(frames.returns))
    assert read(tmp_path / "values.png").shape[1] == 1200


def test_calibration_of_every_predictor_is_drawn(tmp_path):
    frames = make_frames((30,), outcomes="s", tasks="a")
    metrics = measure(frames, bump(frames.returns, 0.2))
    plot_calibration(tmp_path / "page.png", dict.fromkeys((MODEL, ELAPSED_TIME, CONSTANT), metrics))
    page = read(tmp_path / "page.png")
    # All three lie on each other: the last one is on top.
    assert len(places(page, "#8a919b")[0]) > 50
