# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from vla_nodes.models import c51
from vla_nodes.monitoring.value_reading import read_value

LEVELS = (0.05, 0.1, 0.5, 0.9, 0.999)


@pytest.mark.parametrize("seed", range(20))
def test_it_reads_what_the_models_own_read_outs_say(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(0.0, 10.0 ** random.uniform(-1, 1.5), 201))
    mass = logits.softmax(-1).float()
    reading = read_value(mass.numpy(), LEVELS)
    assert reading.value == pytest.approx(c51.expected_value(logits).item(), abs=1e-5)
    assert reading.entropy == pytest.approx(c51.entropy(mass).item(), abs=1e-4)
    expected = c51.quantiles(mass, torch.tensor(LEVELS)).tolist()
    assert list(reading.quantiles) == pytest.approx(expected, abs=1e-6)


def test_what_is_sure_has_one_value_and_no_entropy() -> None:
    for atom in (0, 57, 200):
        mass = np.zeros(201, np.float32)
        mass[atom] = 1.0
        reading = read_value(mass, LEVELS)
        assert reading.value == pytest.approx(-1.0 + 0.005 * atom)
        assert reading.quantiles == pytest.approx((reading.value,) * 5)
        assert reading.entropy == 0.0
    even = read_value(np.full(201, 1 / 201, np.float32), (0.5,))
    assert even.entropy == pytest.approx(math.log(201))
    assert even.quantiles == pytest.approx((-0.5,))


@pytest.mark.parametrize(
    "wrong",
    [np.full(200, 1 / 200), np.full(201, 0.1), np.full(201, math.nan), np.r_[-1.0, 2.0, [0] * 199]],
)
def test_what_is_no_distribution_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        read_value(wrong, LEVELS)
