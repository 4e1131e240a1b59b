# SPDX-License-Identifier: Apache-2.0
"""What each loss trains, in which precision and with which memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pi05_runs import (
    CONFIG,
    NOISE,
    TIMES,
    assert_same,
    gradients,
    is_vlm,
    only_action,
    only_text,
    run,
)
from pi05_samples import (
    make_model,
    random_batch,
)

from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import Pi05Batch


@pytest.fixture
def model():
    return make_model()


def test_a_new_model_guesses_evenly_and_its_expert_passes_actions_through():
    torch.manual_seed(0)
    model, batch = Pi05(CONFIG), random_batch(CONFIG)
    output = run(model, batch)
    text = output.text_loss[batch.target.mask].mean().item()
    assert text == pytest.approx(np.log(CONFIG.vocabulary), abs=1.0)
    _, there, prefix = model.prefix(batch.views, model.embed_pictures(batch.views), batch.actor)
    velocity, _ = model.run_expert(NOISE, TIMES, prefix, there)
    x = model.action_in_proj(NOISE)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert_same(velocity, model.action_out_proj(x))


def test_action_loss_trains_all_of_the_expert_and_nothing_of_the_vlm(model):
    for found in (
        gradients(model, run(model, only_action(random_batch(CONFIG))).total_loss),
        gradients(model, run(model, random_batch(CONFIG)).action_loss.sum()),
    ):
        assert set(found) == {name for name, _ in model.named_parameters() if not is_vlm(name)}


def test_text_loss_trains_all_of_the_vlm_and_nothing_of_the_expert(model):
    found = gradients(model, run(model, only_text(random_batch(CONFIG))).total_loss)
    assert set(found) == {name for name, _ in model.named_parameters() if is_vlm(name)}


def test_both_losses_together_train_the_vlm_as_the_text_loss_alone(model):
    batch = random_batch(CONFIG)
    text = gradients(model, run(model, only_text(batch)).total_loss)
    action = gradients(model, run(model, only_action(batch), alpha=4.0).total_loss)
    both = gradients(model, run(model, batch, alpha=4.0).total_loss)
    assert both.keys() == text.keys() | action.keys()
    for name, gradient in (text | action).items():
        assert_same(both[name], gradient, msg=name)


def test_action_loss_trains_the_vlm_where_it_is_not_insulated(model):
    batch = only_action(random_batch(CONFIG))
    found = gradients(model, run(model, batch, insulate=False).total_loss)
    # The last layer hands on its keys and values; what it computes after them reaches nobody.
    dead = ("norm.", "1.mlp.", "1.post_attention_layernorm.", "1.self_attn.q_", "1.self_attn.o_")
    for name, _ in model.named_parameters():
        _, _, part = name.partition(".language_model.")
        assert (name in found) != part.removeprefix("layers.").startswith(dead), name


def test_alpha_zero_runs_no_action_branch(model):
    batch = random_batch(CONFIG)
    batch.action.actions.fill_(torch.nan)
    output = model(batch, alpha=0.0)
    assert output.total_loss.isfinite()
    assert output.action_loss is None
    assert output.suffix_embeds is None
    assert all(is_vlm(name) for name in gradients(model, output.total_loss))


def test_total_is_text_per_token_and_alpha_times_action_per_element(model):
    batch = random_batch(CONFIG)
    output = run(model, batch, alpha=3.0)
    text = output.text_loss[batch.target.mask].mean()
    counted = ~batch.action.is_pad[..., None] & (torch.arange(8) < batch.action.dims)
    action = output.action_loss[counted].mean()
    assert counted.sum() == (8 + 6 + 5) * 6
    assert_same(output.total_loss, text + 3.0 * action)


@pytest.mark.parametrize("missing", ["planner", "target", "actor", "action"])
def test_half_a_branch_is_refused(model, missing):
    with pytest.raises(ValueError, match=missing):
        model(replace(random_batch(CONFIG), **{missing: None}))


def test_nothing_to_learn_is_refused(model):
    batch = random_batch(CONFIG)
    for options in ({"batch": only_action(batch), "alpha": 0.0}, {"batch": Pi05Batch(batch.views)}):
        with pytest.raises(ValueError, match="nothing to learn"):
            model(**options)


def test_checkpointing_computes_layers_twice_and_the_same_gradients(model):
    batch, layers = random_batch(CONFIG), []
    model.train()
    for stack in (
        model.language.layers,
        model.expert.layers,
        model.vision.vision_model.encoder.layers,
    ):
        stack[0].self_attn.q_proj.register_forward_pre_hook(lambda *_: layers.append(1))
    found = {}
    for wanted in (False, True):
        model.checkpointing = wanted
        assert model.checkpointing == wanted
        layers.clear()
        output = run(model, batch)
        forward = len(layers)
        found[wanted] = (output.total_loss, gradients(model, output.total_loss))
        # Vision, planner, actor and expert; the actor's prefix is no function of what it trains.
        assert (forward, len(layers)) == (4, 7 if wanted else 4)
    assert torch.equal(found[True][0], found[False][0])
    for name, gradient in found[False][1].items():
        assert_same(found[True][1][name], gradient, msg=name)


@pytest.mark.parametrize("insulate", [True, False])
def test_training_under_bfloat16_autocast_stays_near_float32(model, insulate):
    batch = random_batch(CONFIG, delay=(0, 2, 1))
    exact = run(model, batch, insulate=insulate)
    expected = gradients(model, exact.total_loss)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model, batch, insulate=insulate)
    found = gradients(model, output.total_loss)
    assert output.total_loss.dtype == output.action_loss.dtype == torch.float32
    assert output.text_loss.dtype == torch.float32
    assert_same(output.total_loss, exact.total_loss, rtol=0.02, atol=0.0)
    assert found.keys() == expected.keys()
    ours, exact = (torch.cat([x.flatten() for x in all.values()]) for all in (found, expected))
    assert ours.dtype == torch.float32
    assert (ours - exact).norm() < 0.05 * exact.norm()


def test_a_model_in_bfloat16_trains_plans_and_acts(model):
    batch = random_batch(CONFIG, delay=(0, 2, 1))
    exact = run(model, batch)
    logits = model.next_token(batch.views, batch.planner, batch.target)
    model = model.to(torch.bfloat16)
    output = run(model, batch)
    assert output.action_loss.dtype == output.text_loss.dtype == torch.float32
    assert_same(output.total_loss, exact.total_loss, rtol=0.02, atol=0.0)
    assert gradients(model, output.total_loss)
    found = model.next_token(batch.views, batch.planner, batch.target)
    assert_same(found.float(), logits, rtol=0.05, atol=0.1)
