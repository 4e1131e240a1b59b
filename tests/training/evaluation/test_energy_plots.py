# SPDX-License-Identifier: Apache-2.0
"""Pages that hold what they should, wherever that can be told from their pixels."""

import cv2
import numpy as np
import pytest

from vla_nodes.display.style import BLUE, ORANGE
from vla_training.evaluation.energy_choice import SampleErrors, choices, correlate, means
from vla_training.evaluation.energy_evaluation import SampleResults
from vla_training.evaluation.energy_plots import plot_areas, plot_energies, plot_samples
from vla_training.evaluation.energy_separation import ScoredFrames, separate

HOSTILE = ["$\\frac{$", "\x1b[31m\n\u202e", "run " * 500, "", "a", "b", "c", "d"]
KINDS = ("noise 0.5", "noise 1", "noise 3", "shift", "reversed", "joints", "other-task", "samples")


def make_scored(names, episodes=6):
    rng, scored = np.random.default_rng(0), {}
    episode = np.repeat(np.arange(episodes), 30)
    for place, name in enumerate(names):
        expert = rng.normal(0.6, 0.15, len(episode))
        gaps = np.linspace(0.1, 0.6, len(KINDS)) * (1 + place % 2)
        negatives = {
            kind: rng.normal(0.6 + gap, 0.2, (len(episode), 2))
            for kind, gap in zip(KINDS, gaps, strict=True)
        }
        scored[name] = ScoredFrames(episode, expert, negatives)
    scored[names[0]].negatives["other-task"][:] = np.nan
    return scored


def make_samples(names, samples=16, episodes=6):
    rng = np.random.default_rng(1)
    expert = rng.normal(size=(60, 4, 2))
    drawn = expert[:, None] + rng.normal(0.1, 0.4, size=(60, samples, 4, 2))
    errors = SampleErrors.of(drawn, expert, np.arange(60) % episodes)
    energies = {
        name: errors.total + rng.normal(scale=0.03 * (1 + place), size=errors.total.shape)
        for place, name in enumerate(names)
    }
    units = np.ones(2)
    return SampleResults(
        chosen={name: choices(errors, one, units) for name, one in energies.items()},
        best=choices(errors, None, units),
        mean=means(errors, units),
        correlations={name: correlate(errors, one) for name, one in energies.items()},
    )


def read(path):
    page = cv2.imread(str(path))[..., ::-1]
    assert 0.002 < (page < 250).any(axis=-1).mean() < 0.7
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    return page


def columns(page, colour):
    """Columns of pixels with that colour."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return np.flatnonzero((page == wanted).all(axis=-1).any(axis=0))


@pytest.mark.parametrize("names", [["one"], HOSTILE])
@pytest.mark.parametrize("episodes", [1, 6])
def test_any_number_of_models_fits_a_page(tmp_path, names, episodes):
    scored = make_scored(names, episodes)
    areas, energies, samples = (tmp_path / name / "page.png" for name in ("a", "e", "s"))
    for path in (areas, energies, samples):
        path.parent.mkdir()
    plot_areas(areas, {name: separate(one) for name, one in scored.items()})
    plot_energies(energies, scored)
    plot_samples(samples, make_samples(names, episodes=episodes))
    for path in (areas, energies, samples):
        height, width, _ = read(path).shape
        assert height < 1600
        assert width < 1400


def test_the_better_model_lies_further_to_the_right(tmp_path):
    scored = make_scored(["worse", "better"])
    areas = {name: separate(one) for name, one in scored.items()}
    plot_areas(tmp_path / "areas.png", areas)
    page = read(tmp_path / "areas.png")
    page = page[: int(0.85 * len(page))]  # without the legend
    worse, better = columns(page, BLUE), columns(page, ORANGE)
    assert worse.min() < better.min()


def test_one_sample_leaves_one_point(tmp_path):
    plot_samples(tmp_path / "samples.png", make_samples(["one"], samples=1))
    read(tmp_path / "samples.png")
