# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_training.recipes.energy_objective import energy_counts, energy_losses
from vla_training.recipes.energy_settings import EnergyLossSettings

TAU, MARGIN = 0.4, 0.3


def plainly(expert, others, loss):
    """Means over rows and negatives, one at a time, in Python's own numbers."""
    rows = len(expert)
    own = [expert[i][i if loss.startswith("swap") else 0] for i in range(rows)]
    losses, right, negative = [], [], []
    for i in range(rows):
        made = [e for one in others.values() for e in one[i] if math.isfinite(e)]
        if loss.startswith("swap"):
            made += [expert[i][j] for j in range(rows) if j != i]
        right.append(all(own[i] < e for e in made))
        negative += made
        if loss == "hinge":
            losses.append(np.mean([max(0.0, own[i] - e + MARGIN) for e in made] or [0.0]))
            continue
        weights = [math.exp((own[i] - e) / TAU) for e in made]
        losses.append(math.log1p(sum(weights)))
        if loss == "swap-both":
            back = sum(math.exp((own[i] - expert[j][i]) / TAU) for j in range(rows) if j != i)
            losses[-1] = (losses[-1] + math.log1p(back)) / 2
    found = {
        "energy": np.mean(losses),
        "energy_accuracy": np.mean(right),
        "positive_energy": np.mean(own),
        "negative_energy": np.mean(negative) if negative else 0.0,
    }
    for kind, one in others.items():
        there = [e for row in one for e in row if math.isfinite(e)]
        pairs = [(e > mine) + (e == mine) / 2 for mine in own for e in there]
        found[f"auroc_{kind}"] = np.mean(pairs) if pairs else 0.0
    return found


ENERGIES = st.sampled_from([0.1, 0.5, 0.50001, 1.2, 2.1])
KINDS = st.lists(st.sampled_from(["noise", "shift", "joints"]), min_size=1, unique=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(2, 4), kinds=KINDS)
@pytest.mark.parametrize("loss", ["swap", "swap-both", "explicit", "hinge"])
def test_losses_and_figures_are_those_of_a_plain_loop(loss, data, rows, kinds):
    def drawn(columns, energies):
        row = st.lists(energies, min_size=columns, max_size=columns)
        return data.draw(st.lists(row, min_size=rows, max_size=rows))

    expert = drawn(rows if loss.startswith("swap") else 1, ENERGIES)
    absent = st.one_of(ENERGIES, st.just(math.inf))
    others = {kind: drawn(1 + k, absent) for k, kind in enumerate(kinds)}
    told = EnergyLossSettings(loss=loss, tau=TAU, margin=MARGIN, negatives=tuple(kinds))
    sums = energy_losses(
        torch.tensor(expert, dtype=torch.float64),
        {kind: torch.tensor(one, dtype=torch.float64) for kind, one in others.items()},
        told,
    )
    there = {kind: int(np.isfinite(one).sum()) for kind, one in others.items()}
    counts = energy_counts(rows, there, told)
    assert counts.keys() == sums.keys()
    means = {name: float(sums[name]) / max(counts[name], 1) for name in sums}
    assert means == pytest.approx(plainly(expert, others, loss), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("loss", ["swap", "swap-both", "explicit", "hinge"])
def test_negatives_that_are_not_there_leave_gradients_finite(loss):
    expert = torch.rand(3, 3 if loss.startswith("swap") else 1, requires_grad=True)
    noise = torch.rand(3, 2, requires_grad=True)
    there = torch.tensor([[True, False], [False, False], [True, True]])
    others = {"noise": noise.masked_fill(~there, torch.inf)}
    told = EnergyLossSettings(loss=loss, margin=2.0, negatives=("noise",))
    energy_losses(expert, others, told)["energy"].backward()
    assert expert.grad.isfinite().all()
    assert torch.equal(noise.grad != 0, there)
    assert (noise.grad <= 0).all()  # energies of negatives are to rise
