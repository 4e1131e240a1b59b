# SPDX-License-Identifier: Apache-2.0
"""Parameters that are trained beside the others, at a rate of their own."""

from dataclasses import replace

import numpy as np
import torch
from recipe_samples import ToyObjective, logged, toy_items, toy_model

from vla_training.recipes.job import Job
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.optimizer import Apart
from vla_training.recipes.sharing import training_rngs
from vla_training.recipes.training_loop import train

SETTINGS = LoopSettings(
    steps=10,
    decay=10,
    warmup=3,
    batch_size=10,
    learning_rate=0.01,
    weight_decay=0.3,
    clip=0.05,
    ema=0.0,
    workers=0,
    log_every=1,
    save_every=5,
)
APART = Apart("3", 0.002, 0.03)  # the last layer of the toy


def trained(out, *, resume=False, settings=SETTINGS):
    job = Job(
        model=toy_model(),
        objective=ToyObjective(),
        items=toy_items(10),
        validation=None,
        augmentation=None,
        export=lambda: None,
        identity={},
        apart=APART,
    )
    train(job, settings, out, resume=resume)
    return {name: p.detach() for name, p in job.model.named_parameters()}


def test_they_have_an_optimiser_of_their_own_that_starts_after_the_warm_up(tmp_path):
    """Two optimisers, written down plainly."""
    items, model = toy_items(10), toy_model()
    parts = [list(model[0].parameters()), list(model[3].parameters())]
    optimizers = [
        torch.optim.AdamW(
            [
                {"params": [matrix], "weight_decay": 0.3},
                {"params": [vector], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.95),
        )
        for matrix, vector in parts
    ]
    norms = {}
    for step in range(10):
        chosen = [items[k] for k in np.random.default_rng((0, step)).permutation(10)]
        noise = np.stack([rng.normal(size=2) for rng in training_rngs(0, step, range(10))])
        state = torch.stack([i.state for i in chosen]) + 0.1 * torch.from_numpy(noise).float()
        predicted = model(state)
        errors = [
            (predicted[k] - actions).square()
            for k, item in enumerate(chosen)
            for actions in item.actions[~item.action_is_pad]
        ]
        loss = 2.0 * torch.stack(errors).mean() + 0.1 * predicted.square().mean()
        rate = SETTINGS.rate(step)
        rates = (rate, rate / 5 if step >= 3 else 0.0)
        for part, optimizer, clip, lr in zip(parts, optimizers, (0.05, 0.03), rates, strict=True):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = lr
            grads = torch.autograd.grad(loss, part, retain_graph=True)
            norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
            for parameter, grad in zip(part, grads, strict=True):
                parameter.grad = grad * min(1.0, clip / float(norm))
            norms[step + 1] = float(norm)  # in the end of the part apart
        for optimizer in optimizers:
            optimizer.step()
    weights = trained(tmp_path)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), atol=1e-5, rtol=1e-4)
    found = logged(tmp_path, "train/3_gradient_norm")
    np.testing.assert_allclose(list(found.values()), list(norms.values()), rtol=1e-3)


def test_they_are_resumed_where_they_were(tmp_path):
    whole = trained(tmp_path / "whole")
    settings = replace(SETTINGS, keep=9)
    trained(tmp_path / "parts", settings=settings)
    for file in (tmp_path / "parts/state/step-00000010").iterdir():
        file.unlink()
    (tmp_path / "parts/state/step-00000010").rmdir()
    resumed = trained(tmp_path / "parts", resume=True, settings=settings)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
