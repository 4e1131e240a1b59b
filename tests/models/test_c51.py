# SPDX-License-Identifier: Apache-2.0
"""Values as distributions, against numpy in float64, scipy and fractions."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special, stats

from vla_nodes.models.c51 import (
    ATOMS,
    entropy,
    expected_value,
    most_likely,
    nearest_atom,
    quantiles,
    support,
    two_hot,
    value_loss,
)

ATOM_VALUES = np.array([float(Fraction(i, 200) - 1) for i in range(201)])

values_in_bounds = arrays.arrays(
    np.float32, arrays.array_shapes(max_dims=2, max_side=4), elements=st.floats(-1, 0, width=32)
)


def brute_two_hot(values: np.ndarray) -> np.ndarray:
    """By the distance to each atom: a tent of one interval's width on either side."""
    distances = np.abs(values.astype(np.float64)[..., None] - ATOM_VALUES)
    return np.maximum(0.0, 1.0 - 200.0 * distances)


def random_logits(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, ATOMS, generator=torch.Generator().manual_seed(seed))


# --- support and targets ----------------------------------------------------------------------


def test_atoms_rise_from_minus_one_to_zero_by_a_two_hundredth():
    assert support().dtype == torch.float32
    assert support().shape == (201,)
    np.testing.assert_array_equal(support().numpy(), ATOM_VALUES.astype(np.float32))


def test_a_value_between_two_atoms_is_shared_by_both():
    target = two_hot(torch.tensor(-0.503))
    assert target[99].item() == pytest.approx(0.6, abs=1e-5)
    assert target[100].item() == pytest.approx(0.4, abs=1e-5)
    assert target.count_nonzero() == 2


@pytest.mark.parametrize(("value", "atom"), [(0.0, 200), (-0.0, 200), (-1.0, 0), (-0.5, 100)])
def test_a_value_on_an_atom_is_all_on_it(value, atom):
    target = two_hot(torch.tensor(value))
    assert target[atom] == 1.0
    assert target.count_nonzero() == 1


def test_every_atom_is_its_own_target_in_float32():
    assert torch.equal(two_hot(support()), torch.eye(201))
    assert torch.equal(nearest_atom(support()), torch.arange(201))


@settings(max_examples=40, deadline=None)
@given(values_in_bounds)
def test_two_hot_is_that_of_float64(values):
    target = two_hot(torch.from_numpy(values))
    assert target.dtype == torch.float32
    assert target.shape == (*values.shape, 201)
    assert (target >= 0).all()
    np.testing.assert_allclose(target, brute_two_hot(values), atol=1.1e-5)


@settings(max_examples=40, deadline=None)
@given(values_in_bounds)
def test_two_hot_keeps_the_value(values):
    target = two_hot(torch.from_numpy(values)).double().numpy()
    np.testing.assert_allclose(target @ ATOM_VALUES, values, atol=1e-7)
    np.testing.assert_allclose(target.sum(-1), 1.0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3, 7, 80, 200, 400, 499, 500, 625, 1000, 9973])
def test_the_nearest_atom_is_that_of_whole_numbers(steps, dtype):
    values = torch.tensor([-k / steps for k in range(steps + 1)], dtype=dtype)
    exact = [floor(200 - Fraction(200 * k, steps) + Fraction(1, 2)) for k in range(steps + 1)]
    assert nearest_atom(values).tolist() == exact
    assert nearest_atom(values).dtype == torch.int64


@pytest.mark.parametrize("bad", [-1.0001, 1e-6, 0.5, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("use", [two_hot, nearest_atom, lambda v: value_loss(random_logits(3), v)])
def test_a_target_out_of_bounds_is_refused_and_named(use, bad):
    with pytest.raises(ValueError, match=r"target .* is no value, expected numbers from -1 to 0"):
        use(torch.tensor([-0.5, bad, 0.0]))


# --- loss -------------------------------------------------------------------------------------


def brute_loss(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -(targets * (logits - special.logsumexp(logits, axis=-1, keepdims=True))).sum(-1)


def test_loss_of_values_is_that_of_float64():
    logits = random_logits(7)
    values = -torch.rand(7, generator=torch.Generator().manual_seed(1))
    targets = brute_two_hot(values.numpy())
    expected = brute_loss(logits.double().numpy(), targets)
    np.testing.assert_allclose(value_loss(logits, values), expected, rtol=1e-5)
    np.testing.assert_allclose(value_loss(logits, two_hot(values)), expected, rtol=1e-5)


def test_loss_of_distributions_is_that_of_float64():
    logits = random_logits(5)
    targets = random_logits(5, seed=2).softmax(-1)
    expected = brute_loss(logits.double().numpy(), targets.double().numpy())
    np.testing.assert_allclose(value_loss(logits, targets), expected, rtol=1e-5)


def test_gradient_of_the_loss_is_prediction_less_target():
    logits = random_logits(4).requires_grad_()
    values = torch.tensor([0.0, -0.503, -1.0, -0.1234])
    value_loss(logits, values).sum().backward()
    predicted = special.softmax(logits.detach().double().numpy(), axis=-1)
    targets = brute_two_hot(values.numpy())
    np.testing.assert_allclose(logits.grad, predicted - targets, atol=1e-5)


def test_loss_of_large_logits_is_finite_and_float32_of_bfloat16_ones():
    loss = value_loss((1e4 * random_logits(3)).bfloat16(), torch.full((3,), -0.5))
    assert loss.isfinite().all()
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("logits", "targets"),
    [((3, 200), (3,)), ((3, 201), (4,)), ((3, 201), (3, 200)), ((3, 201), (1,)), ((3, 201), ())],
)
def test_shapes_that_do_not_fit_are_named(logits, targets):
    with pytest.raises(ValueError, match=r"logits are \(3, .*expected \(B, 201\), and \(B,\) or"):
        value_loss(torch.zeros(logits), torch.zeros(targets))


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -0.1, 0.5])
def test_a_target_that_is_no_distribution_is_refused(fault):
    targets = two_hot(torch.tensor([-0.5, -0.2]))
    targets[1, 3] = fault
    with pytest.raises(ValueError, match="no distribution: expected shares from 0 up"):
        value_loss(random_logits(2), targets)


# --- what is read off -------------------------------------------------------------------------


def test_expected_value_is_the_mean_in_float64():
    logits = random_logits(3, 4)
    expected = special.softmax(logits.double().numpy(), axis=-1) @ ATOM_VALUES
    np.testing.assert_allclose(expected_value(logits), expected, atol=1e-6)


def test_expected_value_is_as_exact_under_autocast():
    logits = random_logits(6)
    with torch.autocast("cpu", torch.bfloat16):
        within = expected_value(logits)
    assert torch.equal(within, expected_value(logits))


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.float32, 201, elements=st.floats(-60, 60, width=32)))
def test_expected_value_is_a_value(logits):
    two_hot(expected_value(torch.from_numpy(logits)))


@settings(max_examples=40, deadline=None)
@given(values_in_bounds)
def test_expected_value_of_a_target_is_its_value(values):
    logits = two_hot(torch.from_numpy(values)).log()
    np.testing.assert_allclose(expected_value(logits), values, atol=1e-6)


def test_the_likeliest_atom_is_read_of_logits_and_of_probabilities():
    logits = random_logits(3, 4)
    expected = ATOM_VALUES[logits.numpy().argmax(-1)]
    np.testing.assert_allclose(most_likely(logits), expected, atol=1e-7)
    assert torch.equal(most_likely(logits.softmax(-1)), most_likely(logits))


LEVELS = (0.05, 0.1, 0.5, 0.8, 0.95)


def test_quantiles_are_those_of_scipy():
    probabilities = random_logits(3, 4).softmax(-1)
    found = quantiles(probabilities, torch.tensor(LEVELS)).numpy()
    assert found.shape == (3, 4, 5)
    for index in np.ndindex(3, 4):
        exact = probabilities[index].double().numpy()
        law = stats.rv_discrete(values=(np.arange(201), exact / exact.sum()))
        np.testing.assert_allclose(
            found[index], ATOM_VALUES[law.ppf(LEVELS).astype(int)], atol=1e-7
        )


def test_a_share_that_is_just_held_is_held():
    probabilities = torch.zeros(201)
    probabilities[50:60] = 0.1
    found = quantiles(probabilities, torch.tensor([0.1, 0.5, 0.8, 1.0]))
    np.testing.assert_allclose(found, ATOM_VALUES[[50, 54, 57, 59]], atol=1e-7)


def test_all_quantiles_of_a_certain_value_are_that_value():
    found = quantiles(two_hot(torch.tensor([0.0, -1.0, -0.3])), torch.tensor([0.01, 0.5, 1.0]))
    np.testing.assert_allclose(found, [[0.0] * 3, [-1.0] * 3, [-0.3] * 3], atol=1e-7)


def test_entropy_is_that_of_scipy():
    probabilities = random_logits(3, 4).softmax(-1)
    np.testing.assert_allclose(entropy(probabilities), stats.entropy(probabilities, axis=-1), 1e-5)
    assert entropy(two_hot(torch.tensor(0.0))) == 0.0
    uniform = torch.full((201,), 1 / 201)
    assert entropy(uniform).item() == pytest.approx(np.log(201), rel=1e-6)
