# SPDX-License-Identifier: Apache-2.0
"""Which chunk is chosen, when others are drawn, and what is rejected; draws are the test's own."""

import math

import numpy as np
import pytest
import torch

from vla_nodes.inference import Verdict
from vla_nodes.inference.drawn import Drawn, Prefix
from vla_nodes.inference.energy_check import EnergyCheck
from vla_nodes.inference.energy_correction import Correction
from vla_nodes.models.energy_calibration import EnergyCalibration, Threshold

CALIBRATION = EnergyCalibration(
    0.05, Threshold(1.0, 100), {"wave": Threshold(0.5, 50)}, tuple(np.linspace(0, 2, 101))
)
PREFIX = Prefix((), (torch.zeros(()),) * 3, (), False)


def drawn(*energies: float, base: float = 0.0) -> Drawn:
    """Chunks that are told apart by their numbers: base, base + 1, ..."""
    numbers = base + torch.arange(float(len(energies)))
    actions = numbers[:, None, None].expand(-1, 3, 4)
    return Drawn(actions, None, torch.tensor(energies), PREFIX)


class Draws:
    """An engine that draws what the test says, one after another."""

    def __init__(self, *rounds: Drawn) -> None:
        self.rounds = list(rounds)
        self.given: list[Drawn] = []

    def again(self, before: Drawn) -> Drawn:
        self.given.append(before)
        return self.rounds.pop(0)

    def energies(self, _: Prefix, actions: torch.Tensor) -> torch.Tensor:
        return 0.01 * actions.square().sum((1, 2))


def choose(first: Drawn, *rounds: Drawn, resamples: int = 2, task: str = "", **kwargs):
    engine = Draws(*rounds)
    choice = EnergyCheck(CALIBRATION, resamples, kwargs.get("correction")).choose(
        engine, first, task, kwargs.get("past", 0)
    )
    return choice, engine


def test_the_lowest_energy_wins() -> None:
    choice, engine = choose(drawn(0.9, 0.25, 0.5))
    assert np.array_equal(choice.chunk, np.ones((3, 4)))
    assert (choice.energy, choice.threshold, choice.resamples) == (0.25, 1.0, 0)
    assert choice.verdict is Verdict.ACCEPTED
    assert not engine.given


@pytest.mark.parametrize(("energy", "verdict"), [(1.0, 1), (np.nextafter(np.float32(1), 2), 2)])
def test_an_energy_at_the_threshold_is_accepted_and_one_above_is_not(
    energy: float, verdict: int
) -> None:
    assert choose(drawn(energy), resamples=0)[0].verdict == verdict


@pytest.mark.parametrize(("task", "threshold"), [("wave", 0.5), ("bow", 1.0), ("", 1.0)])
def test_a_task_has_its_own_threshold_or_that_of_all(task: str, threshold: float) -> None:
    choice, _ = choose(drawn(0.75), resamples=0, task=task)
    assert choice.threshold == threshold
    assert choice.verdict == (Verdict.ACCEPTED if threshold == 1.0 else Verdict.REJECTED)


def test_others_are_drawn_until_one_is_good_enough() -> None:
    choice, engine = choose(
        drawn(1.5, 1.25), drawn(1.75, 1.5, base=10), drawn(0.75, 1.5, base=20), resamples=5
    )
    assert (choice.energy, choice.resamples, choice.verdict) == (0.75, 2, Verdict.ACCEPTED)
    assert choice.chunk[0, 0] == 20.0
    assert len(engine.given) == 2


@pytest.mark.parametrize("resamples", [0, 1, 3])
def test_the_best_of_all_draws_is_rejected_where_none_is(resamples: int) -> None:
    rounds = [drawn(1.5, 1.25, base=10), drawn(1.75, 1.5, base=20), drawn(1.5, 1.5, base=30)]
    choice, engine = choose(drawn(1.375, 1.75), *rounds, resamples=resamples)
    assert (choice.verdict, choice.resamples) == (Verdict.REJECTED, resamples)
    assert len(engine.given) == resamples
    best = (1.25, 11.0) if resamples else (1.375, 0.0)
    assert (choice.energy, choice.chunk[0, 0]) == best


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["actions", "energies", "later"])
def test_what_is_not_finite_makes_no_choice(value: float, where: str) -> None:
    bad = drawn(1.5, 0.5)
    bad = Drawn(bad.actions.clone(), None, bad.energies, PREFIX)
    if where == "actions":
        bad.actions[0, 1, 1] = value
    else:
        bad.energies[0] = value
    rounds = (drawn(1.5), bad) if where == "later" else (bad,)
    with pytest.raises(RuntimeError, match="not finite"):
        choose(*rounds)


def test_without_energies_there_is_no_choice() -> None:
    with pytest.raises(RuntimeError, match="no energies"):
        choose(Drawn(torch.zeros(1, 3, 4)))


def correction(steps: int = 4) -> Correction:
    wide = np.full(3, 100.0)
    return Correction(steps, 1.0, -wide, wide, np.ones(3, np.bool_))


def test_an_accepted_chunk_is_corrected_from_where_it_is_not_decided() -> None:
    plain, _ = choose(drawn(0.5, base=3.0))
    choice, _ = choose(drawn(0.5, base=3.0), correction=correction(), past=1)
    assert np.array_equal(choice.chunk[0], plain.chunk[0])
    assert (choice.chunk[1:, :3] < plain.chunk[1:, :3]).all()
    assert np.array_equal(choice.chunk[:, 3], plain.chunk[:, 3])
    assert (choice.energy, choice.verdict) == (plain.energy, plain.verdict)


def test_no_correction_saves_a_chunk_that_was_rejected() -> None:
    rejected = drawn(1.5, base=3.0)
    choice, _ = choose(rejected, resamples=0, correction=correction())
    assert choice.verdict == Verdict.REJECTED
    assert np.array_equal(choice.chunk, rejected.actions[0])
