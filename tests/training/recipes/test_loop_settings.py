# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vla_training.recipes.errors import TrainingError
from vla_training.recipes.loop_settings import LoopSettings


def by_hand(steps, peak, lowest, warmup, decay):
    """Warm-up from peak/(warmup + 1), then half a cosine, then flat."""
    up = peak / (warmup + 1) * np.arange(1, warmup + 1)
    angle = np.linspace(0.0, np.pi, decay - warmup + 1)[:-1]
    down = lowest + (peak - lowest) * np.cos(angle / 2) ** 2
    return np.concatenate([up, down, np.full(max(0, steps - decay), lowest)])[:steps]


@pytest.mark.parametrize("steps", [30_000, 40_000])
def test_the_rate_is_that_of_the_published_recipe(steps):
    settings = LoopSettings(steps=steps)
    rates = [settings.rate(step) for step in range(steps)]
    np.testing.assert_allclose(rates, by_hand(steps, 2.5e-5, 2.5e-6, 1000, 30_000), rtol=1e-12)


def test_a_short_training_has_the_same_curve_in_fewer_steps():
    settings = LoopSettings(steps=3000, learning_rate=1e-3, decay_to=0.2)
    rates = [settings.rate(step) for step in range(3000)]
    np.testing.assert_allclose(rates, by_hand(3000, 1e-3, 2e-4, 100, 3000), rtol=1e-12)


def test_a_training_of_one_step_has_a_rate():
    assert LoopSettings(steps=1).rate(0) == 2.5e-5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("steps", "batch_size", "accumulate", "keep", "save_every")),
        *((name, -1) for name in ("seed", "workers", "warmup", "weight_decay")),
        ("learning_rate", float("nan")),
        ("learning_rate", 0.0),
        ("clip", float("inf")),
        ("ema", 1.0),
        ("decay_to", 1.1),
        ("warmup", 30_000),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(TrainingError, match=f"{name} is {value}"):
        LoopSettings(**{name: value})
