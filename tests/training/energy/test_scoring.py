# SPDX-License-Identifier: Apache-2.0
"""Energies in batches against those of one frame and one chunk at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration_samples import SAMPLES, make_energy_model, make_run, opened

from vla_nodes.models.prompts import cleaned
from vla_training.data.errors import DataError
from vla_training.energy.energy_set import collate_energy
from vla_training.energy.negative_settings import KINDS, NegativeSettings
from vla_training.energy.negatives import negatives
from vla_training.energy.scoring import EXPERT, expert_chunks, perturbed_chunks, score

SEED = 9


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return opened(make_run(tmp_path_factory.mktemp("run"))).test


@pytest.fixture(scope="module")
def model():
    return make_energy_model()


def all_chunks(frames, seed=SEED):
    settings = NegativeSettings(shift=11)
    kinds = {kind: perturbed_chunks(kind, frames.chunks, settings, seed) for kind in KINDS}
    return {EXPERT: expert_chunks, **kinds}


@pytest.fixture(scope="module")
def scores(model, frames):
    return score(model, frames, all_chunks(frames), batch_size=7)


def test_energies_are_those_of_single_chunks_in_single_contexts(model, frames, scores):
    settings = NegativeSettings(shift=11)
    for place in range(0, len(frames), 3):
        item = frames[place]
        batch = collate_energy([item])
        for kind, found in scores.energies.items():
            if kind == EXPERT:
                chunks, there = item.actions[None].numpy(), [True]
            else:
                rng = [np.random.default_rng((SEED, item.row))]
                made = negatives(kind, batch, frames.chunks, batch.rows, rng, settings)
                chunks, there = made[0][0], made[1][0]
            for chunk, exists, energy in zip(chunks, there, found[place], strict=True):
                expected = np.nan
                if exists:
                    with torch.no_grad():
                        one = torch.from_numpy(chunk.copy())[None]
                        expected = float(model(item.hidden[None], one))
                assert energy == pytest.approx(expected, abs=1e-5, nan_ok=True), kind


def test_every_frame_and_kind_has_its_place(frames, scores):
    widths = {kind: found.shape[1] for kind, found in scores.energies.items()}
    assert [*widths] == [EXPERT, *KINDS]
    assert widths["samples"] == SAMPLES
    assert {len(found) for found in scores.energies.values()} == {len(frames)}
    # From the middle of a short episode shifts lead beyond both of its ends.
    assert 0 < np.isnan(scores.energies["shift"]).sum() < len(frames)
    assert np.isfinite(scores.energies[EXPERT]).all()
    assert scores.tasks.tolist() == [frames[place].task for place in range(len(frames))]
    episodes = [frames.chunks.episode[frames[place].row] for place in range(len(frames))]
    assert scores.episodes.tolist() == episodes
    assert len(set(scores.tasks)) == 2
    assert len(set(episodes)) == 2


def test_the_experts_come_with_tasks_and_episodes(scores):
    written = np.array([f"{task}\n".replace(" ", "_") for task in scores.tasks], object)
    experts = replace(scores, tasks=written).experts
    assert (experts.energies == scores.energies[EXPERT][:, 0]).all()
    assert experts.tasks.tolist() == [cleaned(task) for task in scores.tasks]
    assert experts.episodes is scores.episodes


def test_what_is_random_follows_from_seed_and_frame_and_not_from_batches(model, frames, scores):
    again = score(model, frames, all_chunks(frames), batch_size=50)
    other = score(model, frames, all_chunks(frames, seed=8), batch_size=50)
    for kind, found in scores.energies.items():
        np.testing.assert_allclose(again.energies[kind], found, atol=1e-5)
        drawn_anew = kind in ("noise", "shift", "joints", "other-task")
        assert np.allclose(other.energies[kind], found, atol=1e-5, equal_nan=True) != drawn_anew


def test_weights_that_are_not_finite_are_named_with_the_frames(frames):
    broken = make_energy_model()
    torch.nn.init.constant_(broken.prediction_head.fc2.weight, torch.nan)
    said = r"frames \d+ to \d+ of the split: .*output of the head.* nan"
    with pytest.raises(DataError, match=said):
        score(broken, frames, {EXPERT: expert_chunks})
