# SPDX-License-Identifier: Apache-2.0
"""LeRobot's pi0.5 with the same weights, inputs and noise says the same."""

from dataclasses import replace

import pytest
import torch
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding
from lerobot_twin import UNUSED, lerobot_inputs, lerobot_twin
from pi05_samples import (
    make_model,
    padded,
    random_action,
    random_noise,
    random_texts,
    random_views,
)
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vla_nodes.models.flow import embed_times
from vla_nodes.models.pi05_batch import Pi05Batch
from vla_nodes.models.pi05_config import full, tiny

TINY = tiny()
CONFIG = replace(
    TINY,
    language=replace(TINY.language, heads=8, depth=3),
    expert=replace(TINY.expert, heads=8, depth=3, width=48),
    vision=replace(TINY.vision, width=48, heads=3),
    image_size=48,
)
CASES = {
    "one camera": (1, [], "right", 0),
    "three cameras, padded": (3, [], "right", 5),
    "absent cameras": (3, [(0, 1), (1, 0), (1, 2), (2, 2)], "right", 2),
    "padded on the left": (2, [(2, 0)], "left", 3),
}


@pytest.fixture(scope="module")
def model():
    return make_model(CONFIG)


@pytest.fixture(scope="module")
def twin(model):
    return lerobot_twin(model)


def inputs(case):
    cameras, absent, side, extra = CASES[case]
    prompt = padded(random_texts(CONFIG, (6, 2, 9)), side, extra)
    return random_views(CONFIG, cameras=cameras, absent=absent), prompt


def assert_close(ours: Tensor, theirs: Tensor):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def worst_cosine(ours: Tensor, theirs: Tensor) -> float:
    """Of the chunks of a batch."""
    return cosine_similarity(ours.flatten(1).double(), theirs.flatten(1).double()).min().item()


def test_parameters_have_lerobots_names_and_shapes(model, twin):
    ours = {name: value.shape for name, value in model.state_dict().items()}
    theirs = {name: value.shape for name, value in twin.state_dict().items()}
    assert theirs.keys() - ours.keys() == UNUSED
    assert ours == {name: theirs[name] for name in theirs.keys() - UNUSED}


@pytest.mark.parametrize("case", CASES)
def test_sampled_chunks_are_lerobots(model, twin, case):
    views, prompt = inputs(case)
    noise = random_noise(CONFIG)
    for steps in (None, 3):
        ours = model.sample_actions(views, prompt, noise, steps=steps)
        theirs = twin.sample_actions(*lerobot_inputs(views, prompt), noise=noise, num_steps=steps)
        assert_close(ours, theirs)
        assert (ours - noise).std() > 0.1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("insulate", [True, False])
def test_action_losses_and_gradients_are_lerobots(model, twin, case, insulate):
    views, prompt = inputs(case)
    noise, times = random_noise(CONFIG, seed=1), torch.tensor([0.05, 0.5, 0.98])
    target = random_action(CONFIG, pad_steps=(0, 0, 0), dims=CONFIG.max_action_dim)
    model.zero_grad()
    twin.zero_grad()
    batch = Pi05Batch(views, actor=prompt, action=target)
    ours = model(batch, alpha=1.0, insulate=insulate, noise=noise, times=times)
    theirs = twin(*lerobot_inputs(views, prompt), target.actions, noise, times)
    assert_close(ours.action_loss, theirs)
    assert_close(ours.total_loss, theirs.mean())
    ours.total_loss.backward()
    theirs.mean().backward()
    gradients = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if insulate and ".paligemma." in name:
            assert parameter.grad is None, name
        elif parameter.grad is None:  # The last layer's output, and the norm behind it
            assert gradients[name].grad is None or not gradients[name].grad.any(), name
        else:
            torch.testing.assert_close(
                parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-5, msg=name
            )


def test_prefix_is_lerobots(model, twin):
    views, prompt = inputs("absent cameras")
    embeds, there, _ = twin.embed_prefix(*lerobot_inputs(views, prompt))
    with torch.no_grad():
        ours = torch.cat([model.embed_pictures(views), model.embed_tokens(prompt.ids)], dim=1)
        hidden, seen, _ = model.prefix(views, model.embed_pictures(views), prompt)
        mask = torch.where(there[:, None, None, :], 0.0, -1e38).expand(-1, -1, there.shape[1], -1)
        (theirs, _), _ = twin.paligemma_with_expert(
            attention_mask=mask,
            position_ids=there.cumsum(1) - 1,
            inputs_embeds=[embeds, None],
            use_cache=True,
        )
    assert_close(ours, embeds)
    assert torch.equal(seen, there)
    assert_close(hidden[there], theirs[there])


def test_times_are_embedded_as_lerobots(model, twin):
    times = torch.tensor([0.001, 0.1, 0.7, 1.0])
    for width, ours in ((48, model.config), (1024, full())):
        periods = ours.min_period, ours.max_period
        assert periods == (twin.config.min_period, twin.config.max_period)
        theirs = create_sinusoidal_pos_embedding(times, width, *periods, device=times.device)
        torch.testing.assert_close(
            embed_times(times, width, *periods), theirs.float(), rtol=0.0, atol=1e-6
        )


@pytest.mark.parametrize("seed", range(3))
def test_chunks_in_bfloat16_point_the_same_way(seed):
    model = make_model(CONFIG, seed)
    views, prompt = inputs("absent cameras")
    noise = random_noise(CONFIG, seed=seed)
    exact = model.sample_actions(views, prompt, noise)
    theirs = lerobot_twin(model, "bfloat16").sample_actions(
        *lerobot_inputs(views, prompt), noise=noise
    )
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.sample_actions(views, prompt, noise)
    ours = model.to(torch.bfloat16).sample_actions(views, prompt, noise)
    for chunk in (ours, mixed):
        assert chunk.dtype == torch.float32
        for other in (exact, theirs):
            assert worst_cosine(chunk, other) >= 0.999
            # What was taken off the noise: the noise itself is the same everywhere.
            assert worst_cosine(chunk - noise, other - noise) >= 0.999


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_published_widths_with_one_layer_of_gemma_are_lerobots():
    size = full()
    config = replace(
        size,
        language=replace(size.language, depth=1),
        expert=replace(size.expert, depth=1),
        vocabulary=1024,
    )
    model = make_model(config)
    views = random_views(config, rows=1, cameras=1)
    prompt = padded(random_texts(config, (20,)), extra=3)
    noise = random_noise(config, rows=1)
    ours = model.sample_actions(views, prompt, noise, steps=2)
    twin = lerobot_twin(model)
    theirs = twin.sample_actions(*lerobot_inputs(views, prompt), noise=noise, num_steps=2)
    assert_close(ours, theirs)
