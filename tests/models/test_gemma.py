# SPDX-License-Identifier: Apache-2.0
"""Gemma's layers against transformers' own, and against numpy."""

import numpy as np
import pytest
import torch
from pi05_samples import make_model
from transformers import GemmaConfig, GemmaForCausalLM

from vla_nodes.models.gemma import AdaptiveRmsNorm, Gemma, RmsNorm, rope_table, rotate
from vla_nodes.models.pi05_config import GemmaSize, Pi05Config, VisionSize

VISION = VisionSize(width=16, depth=1, mlp=16, heads=2, patch=16)


def sizes(heads: int, kv_heads: int) -> Pi05Config:
    size = GemmaSize(width=24, depth=3, mlp=40, heads=heads, kv_heads=kv_heads, head_dim=16)
    return Pi05Config(VISION, size, size, vocabulary=61, image_size=16)


def transformers_gemma(config: Pi05Config, language: Gemma) -> GemmaForCausalLM:
    size = config.language
    theirs = GemmaForCausalLM(
        GemmaConfig(
            vocab_size=config.vocabulary,
            hidden_size=size.width,
            intermediate_size=size.mlp,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            head_dim=size.head_dim,
        )
    ).eval()
    theirs.model.load_state_dict(language.state_dict())
    return theirs


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (4, 2), (3, 3)])
def test_causal_text_is_read_as_transformers_gemma_reads_it(heads, kv_heads):
    config = sizes(heads, kv_heads)
    model = make_model(config)
    theirs = transformers_gemma(config, model.language)
    ids = torch.randint(config.vocabulary, (2, 11), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(11).expand(2, -1)
    causal = torch.ones(2, 11, 11, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden, cache = model.run_language(model.embed_tokens(ids), causal, positions)
        expected = theirs(ids, output_hidden_states=True, use_cache=True)
        logits = model.logits(hidden)
    torch.testing.assert_close(hidden, expected.hidden_states[-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    for (keys, values), layer in zip(cache, expected.past_key_values.layers, strict=True):
        torch.testing.assert_close(keys, layer.keys, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(values, layer.values, rtol=1e-5, atol=1e-5)


def test_norm_in_bfloat16_is_the_exact_one_rounded_once():
    torch.manual_seed(0)
    norm = RmsNorm(32)
    torch.nn.init.normal_(norm.weight)
    norm = norm.to(torch.bfloat16)
    x = (torch.randn(5, 32) * 30).to(torch.bfloat16)
    exact = x.double().numpy()
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
    exact = exact * (1 + norm.weight.detach().double().numpy())
    assert torch.equal(norm(x), torch.from_numpy(exact).to(torch.bfloat16))


def test_adaptive_norm_follows_its_formula_with_one_condition_or_many():
    norm = AdaptiveRmsNorm(8)
    x, condition = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    for given in (condition, condition[:, :1]):
        with torch.no_grad():
            normed, gate = norm(x, given)
        weight, bias = (tensor.detach().numpy() for tensor in norm.dense.parameters())
        scale, shift, expected_gate = np.split(given.numpy() @ weight.T + bias, 3, axis=-1)
        root = np.sqrt((x.numpy() ** 2).mean(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(normed, x.numpy() / root * (1 + scale) + shift, atol=1e-5)
        np.testing.assert_allclose(gate, expected_gate, atol=1e-5)


def test_rotation_turns_each_pair_by_its_own_frequency():
    x, positions = torch.randn(2, 3, 4, 10), torch.tensor([[0, 1, 2, 7], [3, 3, -1, 700]])
    rotated = rotate(x, rope_table(positions, 10, torch.float32)).numpy()
    pairs = x[..., :5].double().numpy() + 1j * x[..., 5:].double().numpy()
    frequencies = 10_000.0 ** (-np.arange(5) / 5)
    turned = pairs * np.exp(1j * positions.numpy()[:, None, :, None] * frequencies)
    np.testing.assert_allclose(rotated[..., :5], turned.real, atol=1e-4)
    np.testing.assert_allclose(rotated[..., 5:], turned.imag, atol=1e-4)
