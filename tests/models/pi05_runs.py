# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny pi0.5 on given noise and times, parts of batches, and gradients."""

from dataclasses import replace

import torch
from pi05_samples import padded, random_noise

from vla_nodes.models.pi05_batch import Pi05Batch, Views
from vla_nodes.models.pi05_config import tiny

CONFIG = tiny()
TIMES = torch.tensor([0.1, 0.5, 0.95])
NOISE = random_noise(CONFIG, seed=9)


def only_action(batch: Pi05Batch) -> Pi05Batch:
    return replace(batch, planner=None, target=None)


def only_text(batch: Pi05Batch) -> Pi05Batch:
    return replace(batch, actor=None, action=None)


def run(model, batch, **options):
    return model(batch, **{"noise": NOISE, "times": TIMES, **options})


def gradients(model, loss):
    """By parameter; one that the loss does not reach is left out."""
    model.zero_grad()
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


def assert_same(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, **{"rtol": 1e-5, "atol": 1e-5, **tolerance})


def is_vlm(name: str) -> bool:
    return ".paligemma." in name


def single_items(batch: Pi05Batch) -> list[Pi05Batch]:
    """Each item by itself, without padding of texts."""
    return [
        Pi05Batch(
            Views(batch.views.pixels[row : row + 1], batch.views.mask[row : row + 1]),
            *(
                padded([texts.ids[row][texts.mask[row]].tolist()])
                for texts in (batch.planner, batch.target, batch.actor)
            ),
            replace(
                batch.action,
                actions=batch.action.actions[row : row + 1],
                is_pad=batch.action.is_pad[row : row + 1],
            ),
        )
        for row in range(len(batch.views.mask))
    ]
