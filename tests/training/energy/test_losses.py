# SPDX-License-Identifier: Apache-2.0
"""Losses of energies against loops over all pairs, and against cases known in closed form."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from vla_training.energy.losses import explicit_infonce, hinge, swap_infonce

sizes = st.integers(1, 6)
seeds = st.integers(0, 1000)


def draw(rows, columns, seed):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 2.1, (rows, columns)))


def row_loss(own, others, tau):
    """-log of the share of one among all, as the formula has it."""
    shares = [math.exp(-energy / tau) for energy in [own, *others]]
    return -math.log(shares[0] / sum(shares))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 6), more=st.integers(0, 3), tau=st.floats(0.2, 3.0), seed=seeds)
def test_swapped_infonce_is_the_formula(rows, more, tau, seed):
    energies = draw(rows, rows + more, seed)
    contrast = swap_infonce(energies, tau)
    for i, row in enumerate(energies.tolist()):
        others = row[:i] + row[i + 1 :]
        assert contrast.loss[i].item() == pytest.approx(row_loss(row[i], others, tau))
        assert contrast.correct[i].item() == all(row[i] < other for other in others)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 6), more=st.integers(0, 3), seed=seeds)
def test_in_both_directions_it_is_the_mean_of_rows_and_columns(rows, more, seed):
    energies = draw(rows, rows + more, seed)
    contrast = swap_infonce(energies, both=True)
    columns = swap_infonce(energies[:, :rows].T.contiguous()).loss
    assert_close(contrast.loss, (swap_infonce(energies).loss + columns) / 2)
    assert torch.equal(contrast.correct, swap_infonce(energies).correct)


@settings(max_examples=40, deadline=None)
@given(rows=sizes, more=st.integers(1, 5), tau=st.floats(0.2, 3.0), seed=seeds)
def test_explicit_infonce_is_the_formula(rows, more, tau, seed):
    positive, negative = draw(rows, 1, seed)[:, 0], draw(rows, more, seed + 1)
    contrast = explicit_infonce(positive, negative, tau)
    for i in range(rows):
        expected = row_loss(positive[i].item(), negative[i].tolist(), tau)
        assert contrast.loss[i].item() == pytest.approx(expected)
        assert contrast.correct[i].item() == bool((positive[i] < negative[i]).all())


@pytest.mark.parametrize("rows", [2, 8, 32])
def test_known_losses(rows):
    chance = swap_infonce(torch.full((rows, rows), 1.1))
    assert_close(chance.loss, torch.full((rows,), math.log(rows)))
    assert not chance.correct.any()  # a model that says the same of everything is right nowhere
    best = torch.full((rows, rows), 2.1).fill_diagonal_(0.1)
    bound = math.log(1 + (rows - 1) * math.exp(-4))
    assert_close(swap_infonce(best).loss, torch.full((rows,), bound))
    assert swap_infonce(best).correct.all()


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 6), seed=seeds)
def test_no_bounded_energies_have_a_loss_below_the_bound(rows, seed):
    bound = math.log(1 + (rows - 1) * math.exp(-4))
    assert (swap_infonce(draw(rows, rows, seed)).loss > bound).all()


def test_the_gradient_lowers_the_own_energy_and_raises_the_others():
    energies = draw(4, 6, 0).requires_grad_()
    swap_infonce(energies, tau=0.5).loss.sum().backward()
    shares = torch.softmax(-energies.detach() / 0.5, dim=1)
    own = torch.eye(4, 6, dtype=torch.bool)
    assert_close(energies.grad[own], (1 - shares[own]) / 0.5)
    assert_close(energies.grad[~own], -shares[~own] / 0.5)


@pytest.mark.parametrize("loss", ["swap", "both", "explicit", "hinge"])
def test_negatives_that_are_not_there_change_nothing_and_get_no_gradient(loss):
    energies, absent = draw(3, 6, 1), torch.zeros(3, 6, dtype=torch.bool)
    absent[0, 4], absent[2, 3:] = True, True

    def losses(energies):
        if loss == "explicit":
            return explicit_infonce(energies.diagonal(), energies[:, 3:]).loss
        if loss == "hinge":
            return hinge(energies.diagonal(), energies[:, 3:], margin=2.0)
        return swap_infonce(energies, both=loss == "both").loss

    leaf = energies.clone().requires_grad_()
    found = losses(leaf.masked_fill(absent, torch.inf))
    found.sum().backward()
    assert leaf.grad.isfinite().all()
    assert (leaf.grad[absent] == 0).all()
    assert (leaf.grad[:, 3:][~absent[:, 3:]] != 0).all()
    assert_close(found[1], losses(energies)[1])
    left = energies[:, [0, 1, 2, 3, 5]]
    assert_close(found[0], losses(left)[0])


def test_a_row_without_negatives_has_no_loss():
    positive = torch.tensor([1.0, 0.5], requires_grad=True)
    absent = torch.full((2, 3), torch.inf)
    for loss in (explicit_infonce(positive, absent).loss, hinge(positive, absent, 1.0)):
        assert loss.tolist() == [0.0, 0.0]
        assert torch.autograd.grad(loss.sum(), positive)[0].tolist() == [0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(rows=sizes, more=sizes, margin=st.floats(0.0, 3.0), seed=seeds)
def test_the_hinge_is_the_formula(rows, more, margin, seed):
    positive, negative = draw(rows, 1, seed)[:, 0], draw(rows, more, seed + 1)
    found = hinge(positive, negative, margin)
    for i in range(rows):
        short = [max(0.0, float(positive[i]) - other + margin) for other in negative[i].tolist()]
        assert found[i].item() == pytest.approx(sum(short) / more)


def test_a_batch_of_one_frame_warns_unless_it_has_other_chunks():
    with pytest.warns(UserWarning, match=r"one frame has no other chunks .* expected at least 2"):
        contrast = swap_infonce(torch.tensor([[0.7]]))
    assert contrast.loss.item() == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swap_infonce(torch.tensor([[0.7, 1.0]]))
        swap_infonce(torch.ones(2, 2))


def test_fewer_chunks_than_contexts_are_refused():
    with pytest.raises(ValueError, match=r"energies \(3, 2\), expected a column for each row"):
        swap_infonce(torch.zeros(3, 2))
