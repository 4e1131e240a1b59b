# SPDX-License-Identifier: Apache-2.0
"""Chunks of fewer layers against models that have no more; samples against single calls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_samples import CONFIG, make_model

from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import Tokens, Views
from vla_training.energy.policy_actions import draw_layers, draw_samples
from vla_training.policy_inputs.policy_frames import frame_noise

DEPTH, ROWS = 3, 2
DEEP = replace(
    CONFIG,
    language=replace(CONFIG.language, depth=DEPTH),
    expert=replace(CONFIG.expert, depth=DEPTH),
)
FRAMES = [(0, 4), (7, 0)]


def seen() -> tuple[Views, Tokens]:
    """Two observations, of which one lacks a camera and has a shorter prompt."""
    generator = torch.Generator().manual_seed(1)
    side = DEEP.image_size
    pixels = torch.rand(ROWS, 2, 3, side, side, generator=generator) * 2 - 1
    ids = torch.randint(1, DEEP.vocabulary, (ROWS, 9), generator=generator)
    mask = torch.ones(ROWS, 9, dtype=torch.bool)
    mask[1, 6:] = False
    return Views(pixels, torch.tensor([[True, True], [True, False]])), Tokens(ids, mask)


def prefix(model: Pi05) -> tuple:
    views, prompt = seen()
    with torch.no_grad():
        _, there, cache = model.prefix(views, model.embed_pictures(views), prompt)
    return cache, there


def first_layers(model: Pi05, depth: int) -> Pi05:
    """A model that was never deeper, with the first layers of another."""
    config = replace(
        model.config,
        language=replace(model.config.language, depth=depth),
        expert=replace(model.config.expert, depth=depth),
    )
    shallow = Pi05(config)
    weights = model.state_dict()
    shallow.load_state_dict({name: weights[name] for name in shallow.state_dict()})
    return shallow.eval()


def test_a_chunk_of_fewer_layers_is_that_of_a_model_which_has_no_more() -> None:
    model, noise = make_model(DEEP), frame_noise(FRAMES, 1, DEEP, 0)[0]
    drawn = draw_layers(model, *prefix(model), noise)
    assert drawn.shape == (ROWS, DEPTH - 1, DEEP.chunk, DEEP.max_action_dim)
    for depth in range(1, DEPTH):
        expected = first_layers(model, depth).sample_actions(*seen(), noise)
        torch.testing.assert_close(drawn[:, depth - 1], expected, rtol=0, atol=1e-5)
    whole = model.sample_actions(*seen(), noise)
    assert (drawn - whole[:, None]).abs().amax(dim=(2, 3)).min() > 0.1


def test_samples_are_those_that_the_policy_draws_one_by_one() -> None:
    model, noise = make_model(DEEP), frame_noise(FRAMES, 3, DEEP, 5)
    drawn = draw_samples(model, *prefix(model), noise)
    assert drawn.shape == (ROWS, 3, DEEP.chunk, DEEP.max_action_dim)
    for number in range(3):
        expected = model.sample_actions(*seen(), noise[number])
        torch.testing.assert_close(drawn[:, number], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
def test_noise_follows_from_seed_episode_and_frame_alone(frame: tuple[int, int]) -> None:
    shape = (4, DEEP.chunk, DEEP.max_action_dim)
    expected = np.random.default_rng((5, *frame)).standard_normal(shape, np.float32)
    many = frame_noise([(3, 3), frame], 4, DEEP, 5)[:, 1]
    few = frame_noise([frame], 2, DEEP, 5)[:, 0]
    np.testing.assert_array_equal(many, expected)
    np.testing.assert_array_equal(few, expected[:2])
    assert not torch.equal(frame_noise([frame], 2, DEEP, 6)[:, 0], few)
