# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch

from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import ActionTarget, Pi05Batch, Tokens, Views
from vla_nodes.models.pi05_config import tiny
from vla_training.recipes.lora import adapt, merged_weights

CONFIG = replace(tiny(), max_delay=0)


@pytest.fixture
def adapted():
    """A model whose adapters have learnt something."""
    torch.manual_seed(0)
    model = Pi05(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapt(model, ("language_model", "gemma_expert.model"), rank=4, alpha=8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.2)
    return model, plain


def batch():
    torch.manual_seed(1)
    ids, mask = torch.randint(3, 500, (2, 6)), torch.ones(2, 6).bool()
    return Pi05Batch(
        Views(torch.rand(2, 2, 3, 32, 32), torch.ones(2, 2).bool()),
        planner=Tokens(ids, mask),
        target=Tokens(ids[:, :4], mask[:, :4]),
        actor=Tokens(ids + 1, mask),
        action=ActionTarget(torch.randn(2, 8, 8), torch.zeros(2, 8).bool(), 6),
    )


def run(model):
    noise, times = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(2)), torch.rand(2)
    times = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        output = model(batch(), noise=noise, times=times)
    return output.text_loss, output.action_loss


def test_the_merged_model_is_the_adapted_one(adapted):
    model, plain = adapted
    merged = Pi05(CONFIG)
    merged.load_state_dict(merged_weights(model), strict=True)
    untouched = Pi05(CONFIG)
    untouched.load_state_dict(plain)
    for ours, theirs, before in zip(run(merged), run(model), run(untouched), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert (theirs - before).abs().max() > 0.01


def test_merging_adds_the_product_of_the_factors(adapted):
    model, plain = adapted
    name = "paligemma_with_expert.gemma_expert.model.layers.1.self_attn.v_proj"
    factors = {
        n.split(".lora_")[1][0]: p
        for n, p in model.named_parameters()
        if f"{name}." in n and ".lora_" in n
    }
    expected = plain[f"{name}.weight"] + 8 / 4 * factors["B"] @ factors["A"]
    torch.testing.assert_close(merged_weights(model)[f"{name}.weight"], expected.detach())


def test_weights_without_adapters_stay_what_they_were(adapted):
    model, plain = adapted
    merged = merged_weights(model)
    assert merged.keys() == plain.keys()
    for name, tensor in merged.items():
        touched = ".self_attn." in name and "vision" not in name
        assert torch.equal(tensor, plain[name]) != touched


def test_only_adapters_and_other_parts_are_trained():
    model = Pi05(CONFIG)
    model.vision.requires_grad_(False)
    adapt(model, ("language_model",), rank=4, alpha=8)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    language = {name for name in trained if "language_model" in name}
    assert len(language) == 2 * 4 * CONFIG.language.depth
    assert all(".lora_" in name for name in language)
    assert not any("vision_tower" in name for name in trained)
    assert any("multi_modal_projector" in name for name in trained)
    assert {n for n, _ in model.expert.named_parameters()} == {
        n.split("gemma_expert.model.")[1] for n in trained if "gemma_expert" in n
    }


def test_new_adapters_change_nothing():
    torch.manual_seed(0)
    model = Pi05(CONFIG)
    before = run(model)
    adapt(model, ("language_model", "gemma_expert.model"), rank=4, alpha=8)
    for ours, theirs in zip(run(model), before, strict=True):
        torch.testing.assert_close(ours, theirs)
