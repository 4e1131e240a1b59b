# SPDX-License-Identifier: Apache-2.0
"""Flow times, their embedding, and masked means."""

import numpy as np
import pytest
import torch
from scipy import stats

from vla_nodes.models.flow import embed_times, mean_where, sample_times


def test_times_are_drawn_from_the_published_distribution():
    torch.manual_seed(0)
    times = sample_times(20_000)
    published = stats.beta(1.5, 1.0, loc=0.001, scale=0.999)
    assert stats.kstest(times.double().numpy(), published.cdf).pvalue > 0.01
    assert times.dtype == torch.float32
    assert times.min() >= 0.001
    assert times.max() <= 1.0


def test_times_follow_torchs_seed():
    torch.manual_seed(3)
    first = sample_times(5)
    torch.manual_seed(3)
    assert torch.equal(first, sample_times(5))


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_times_are_embedded_as_waves_of_geometric_periods(shape):
    times = torch.rand(shape)
    embedded = embed_times(times, 10, 4e-3, 4.0)
    assert embedded.shape == (*shape, 10)
    assert embedded.dtype == torch.float32
    for index in np.ndindex(*shape):
        phases = [2 * np.pi * times[index].item() / period for period in np.geomspace(4e-3, 4, 5)]
        expected = [*np.sin(phases), *np.cos(phases)]
        np.testing.assert_allclose(embedded[index], expected, atol=1e-6)


def test_embedding_tells_neighbouring_times_apart_in_float32():
    # An angle of the shortest period reaches 1571 rad, where float32 steps by 1.2e-4.
    times = torch.tensor([0.999, 0.99901])
    embedded = embed_times(times, 64, 4e-3, 4.0).double()
    angle = 2 * np.pi * (times[1].double() - times[0].double()) / 4e-3
    first, second = np.arctan2(embedded[:, 0].numpy(), embedded[:, 32].numpy())
    assert second - first == pytest.approx(angle.item(), abs=1e-6)


def test_mean_counts_what_is_wanted_and_nothing_else():
    values = torch.arange(12.0).reshape(2, 3, 2)
    values[1, 2] = torch.nan
    wanted = torch.tensor([[True, False, True], [False, True, False]])[..., None]
    expected = np.mean([0, 1, 4, 5, 8, 9])
    assert mean_where(values, wanted).item() == pytest.approx(expected)


def test_mean_of_nothing_is_zero_with_zero_gradient():
    values = torch.ones(3, requires_grad=True)
    mean = mean_where(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad is not None
    assert not values.grad.any()
