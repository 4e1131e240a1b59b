# SPDX-License-Identifier: Apache-2.0
"""A small model learns eight episodes of the simulated arm by heart, in every mode."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from arm_samples import make_arm_dataset
from recipe_samples import CHUNK, cli, make_tokenizers

from vla_nodes.models.checkpoint import load_model, read_checkpoint
from vla_nodes.models.pi05_batch import Tokens
from vla_nodes.models.pi05_config import SIZES, Pi05Config, tiny
from vla_training.data.loading.loaders import evaluation_loader
from vla_training.data.loading.training_set import TrainingSet
from vla_training.policy_inputs.policy_batches import PolicyBatches
from vla_training.tokens.fast import FastTokenizer

STRIDE = 8  # of the frames that are learnt


def learner() -> Pi05Config:
    """A tiny model whose expert is wide enough to keep eight episodes."""
    return replace(tiny(), expert=replace(tiny().expert, width=128, mlp=256))


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm")
    make_tokenizers(make_arm_dataset(folder / "data"), folder, CHUNK)
    return folder


@pytest.fixture(scope="module")
def planner_fast(arm: Path) -> Path:
    """A training of the planner on subtasks and action tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", learner)
        return train(arm, "planner-fast", 800, decay_to=0.005, fast=arm / "fast")


def train(arm: Path, mode: str, steps: int, **options) -> Path:
    """Trains on all episodes; gives the checkpoint."""
    out = arm / mode
    options = {"ema": 0.99, "stride": STRIDE, "warmup": 500, "decay_to": 0.02, **options}
    options |= {
        "learning_rate": 4e-3,
        "max_delay": 0,
        "batch_size": 16,
        "log_every": 100,
        "save_every": steps,
    }
    words = ["--no-augment", "--validation", "0", "--test", "0"]
    assert cli(arm, out, mode, *words, steps=steps, **options) == 0
    return out / "checkpoint"


def judged(arm: Path, checkpoint: Path, fast: FastTokenizer | None = None) -> dict[str, float]:
    """Share of target tokens that are foreseen, and errors of sampled chunks.

    Errors are in units of half the normalised range, q01 to q99.
    """
    about = read_checkpoint(checkpoint)
    model = load_model(about)
    batches = PolicyBatches(
        about.config, about.tokenizer, about.normalization, about.robot.cameras, True, True, fast
    )
    right, errors = [], []
    for batch in evaluation_loader(TrainingSet(arm / "data", CHUNK, stride=STRIDE), 32):
        rngs = [np.random.default_rng((7, k)) for k in range(len(batch))]
        made, draws = batches.make(batch, rngs, "cpu")
        target, action = made.target, made.action
        for k in range(target.ids.shape[1]):
            text = Tokens(target.ids[:, :k], target.mask[:, :k]) if k else None
            found = model.next_token(made.views, made.planner, text).argmax(-1)
            right.append((found == target.ids[:, k])[target.mask[:, k]])
        chunks = model.sample_actions(made.views, made.actor, draws.noise)
        error = (chunks - action.actions)[..., : action.dims].abs()
        errors.append(error[~action.is_pad])
    error = torch.cat(errors)
    return {
        "tokens": torch.cat(right).float().mean().item(),
        "mean": error.mean().item(),
        "p99": error.quantile(0.99).item(),
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_planner_learns_eight_episodes(arm):
    assert judged(arm, train(arm, "planner", 400, decay_to=0.005))["tokens"] == 1.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_planner_learns_eight_episodes_as_action_tokens(arm, planner_fast):
    fast = FastTokenizer.read(arm / "fast")
    assert judged(arm, planner_fast, fast)["tokens"] == 1.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_expert_learns_eight_episodes(arm, planner_fast):
    found = judged(arm, train(arm, "expert", 700, init=planner_fast, flow_samples=16))
    assert found["mean"] < 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_planner_and_expert_learn_eight_episodes_together(arm, monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", learner)
    found = judged(arm, train(arm, "joint", 700, flow_samples=16))
    assert found["tokens"] == 1.0
    assert found["mean"] < 0.05
