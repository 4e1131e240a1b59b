# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from vla_training.recipes.ema import Ema


def parameters(*values):
    return {f"p{i}": torch.nn.Parameter(torch.tensor(v)) for i, v in enumerate(values)}


def test_the_average_is_that_of_numpy():
    rng = np.random.default_rng(0)
    ours = parameters([1.0, 2.0], [[3.0]])
    ema = Ema(ours, 0.9)
    expected = {name: p.detach().numpy().astype(np.float64) for name, p in ours.items()}
    for step in range(1, 200):
        keep = min(0.9, (1 + step) / (10 + step))
        for name, parameter in ours.items():
            new = rng.normal(size=parameter.shape)
            parameter.data = torch.from_numpy(new).float()
            expected[name] = keep * expected[name] + (1 - keep) * new
        ema.update(step)
    for name, average in ema.weights.items():
        np.testing.assert_allclose(average.numpy(), expected[name], atol=1e-6)


def test_half_weights_are_averaged_in_float32():
    ours = {"w": torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))}
    ema = Ema(ours, 0.999)
    ours["w"].data = torch.full((1,), 1.0078125, dtype=torch.bfloat16)
    ema.update(100_000)
    np.testing.assert_allclose(ema.weights["w"].numpy(), 1.0 + 0.0078125e-3, rtol=1e-6)


def test_the_model_gets_its_own_weights_back_even_after_a_failure():
    ours = parameters([1.0])
    ema = Ema(ours, 0.5)
    ours["p0"].data = torch.tensor([3.0])
    ema.update(1)
    inside = []

    def fail():
        with ema.applied():
            inside.append(ours["p0"].item())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [pytest.approx(3.0 - 2.0 * 2 / 11)]
    assert ours["p0"].item() == 3.0
