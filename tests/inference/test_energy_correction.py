# SPDX-License-Identifier: Apache-2.0
"""Corrected chunks against steps that are computed with numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import Gripper, load_contract
from vla_nodes.inference.energy_correction import Correction
from vla_nodes.models.scaling import Scaling

COUNT, JOINTS, PADDED = 7, 4, 6
FREE = np.array([True, True, True, False])


class Bowl:
    """An energy whose slope is known: half the squared distance to a chunk, by joint."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.bottom = random.normal(size=(COUNT, JOINTS))
        self.stiff = random.uniform(0.2, 3.0, JOINTS)

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        apart = actions - torch.tensor(self.bottom, dtype=actions.dtype)
        stiff = torch.tensor(self.stiff, dtype=actions.dtype)
        return 0.5 * (stiff * apart.square()).sum((1, 2))

    def slope(self, actions: np.ndarray) -> np.ndarray:
        return self.stiff * (actions - self.bottom)


def correction(steps: int = 3, rate: float = 0.1, reach: float = 10.0) -> Correction:
    return Correction(steps, rate, np.full(JOINTS, -reach), np.full(JOINTS, reach), FREE)


def chunk(seed: int, scale: float = 1.0) -> torch.Tensor:
    random = np.random.default_rng(100 + seed)
    return torch.tensor(scale * random.normal(size=(COUNT, PADDED)), dtype=torch.float64)


def by_hand(corrects: Correction, bowl: Bowl, start: np.ndarray, past: int) -> np.ndarray:
    actions = start.copy()
    for _ in range(corrects.steps):
        step = corrects.rate * bowl.slope(actions) * corrects.free
        step[:past] = 0.0
        longest = 0.2 * np.sqrt((actions**2).sum())
        norm = np.sqrt((step**2).sum())
        if norm > longest:
            step *= longest / norm
        moved = np.clip(actions - step, corrects.low, corrects.high)
        moving = np.broadcast_to(corrects.free, actions.shape).copy()
        moving[:past] = False
        actions = np.where(moving, moved, actions)
    return actions


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    steps=st.integers(1, 5),
    rate=st.sampled_from([1e-3, 0.1, 0.6]),
    reach=st.sampled_from([0.3, 1.0, 10.0]),
    past=st.integers(0, COUNT),
)
def test_steps_follow_the_slope_and_are_cut_where_they_are_too_long(
    seed: int, steps: int, rate: float, reach: float, past: int
) -> None:
    bowl, start = Bowl(seed), chunk(seed)
    corrects = correction(steps, rate, reach)
    found = corrects(bowl, start, past)
    expected = by_hand(corrects, bowl, start[:, :JOINTS].numpy(), past)
    before, after = (bowl(torch.tensor(x)[None]) for x in (start[:, :JOINTS].numpy(), expected))
    if after < before:
        np.testing.assert_allclose(found[:, :JOINTS].numpy(), expected, atol=1e-12)
        assert bowl(found[None, :, :JOINTS]) < bowl(start[None, :, :JOINTS])
        assert not torch.equal(found[past:, :3], start[past:, :3])
    else:
        assert torch.equal(found, start)
    assert torch.equal(found[:, 3:], start[:, 3:])
    assert torch.equal(found[:past], start[:past])


def test_a_step_is_never_longer_than_a_fifth_of_the_chunk() -> None:
    bowl, start = Bowl(0), chunk(0)
    bowl.bottom += 20.0
    found = correction(steps=1, rate=1e6, reach=100.0)(bowl, start)
    step = (found - start)[:, :JOINTS].norm()
    torch.testing.assert_close(step, 0.2 * start[:, :JOINTS].norm())


def test_the_result_lies_within_the_limits() -> None:
    bowl, start = Bowl(1), chunk(1, scale=0.1)
    bowl.bottom += 5.0
    found = correction(steps=50, rate=1.0, reach=0.25)(bowl, start)[:, :3]
    assert found.abs().max() <= 0.25
    assert (found == 0.25).any()


def test_steps_that_overshoot_are_not_taken() -> None:
    start = chunk(2)
    bowl = Bowl(2)
    bowl.bottom = start[:, :JOINTS].numpy() + 1e-3  # near the bottom already
    assert torch.equal(correction(steps=1, rate=100.0)(bowl, start), start)


def test_a_slope_that_is_no_number_corrects_nothing() -> None:
    def broken(actions: torch.Tensor) -> torch.Tensor:
        return (actions.sum((1, 2)) * torch.nan).nan_to_num() + actions.sum((1, 2)) * torch.nan

    assert torch.equal(correction()(broken, chunk(3)), chunk(3))


def test_limits_and_grippers_are_the_robots() -> None:
    contract = load_contract(find_contract("sim_arm"))
    arm = contract.actions[0]
    grippers = (*arm.grippers[:-1], Gripper(0.0, 0.04, 0.02, 0.005))
    contract = replace(contract, actions=(replace(arm, grippers=grippers),))
    low, high = (-1.0, 1.0, -2.5, -2.0, -1.0, -0.01), (1.0, 2.0, -1.0, -1.0, 1.0, 0.05)
    scaling = Scaling(contract.action_names, "quantile", low, high)
    corrects = Correction.of_robot(contract, scaling, 2, 0.5)
    assert (corrects.steps, corrects.rate) == (2, 0.5)
    assert corrects.free.tolist() == [True] * 5 + [False]
    for limits, scaled in (("lower", corrects.low), ("upper", corrects.high)):
        ends = [getattr(limit, limits) for limit in contract.limits]
        np.testing.assert_allclose(
            (scaled + 1) / 2 * np.subtract(high, low) + low, ends, atol=1e-12
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_stays(dtype: torch.dtype) -> None:
    assert correction()(Bowl(4), chunk(4).to(dtype)).dtype == dtype
