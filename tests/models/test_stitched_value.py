# SPDX-License-Identifier: Apache-2.0
"""The stitched value function against transformers' Gemma3ForCausalLM on the same weights."""

import pytest
import torch
from torch.nn import functional
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from value_samples import TASKS, make_config, make_value, value_batch

CONFIG = make_config("stitched")


@pytest.fixture(scope="module")
def model():
    return make_value(CONFIG)


@pytest.fixture(scope="module")
def twin(model):
    """transformers' model of text, with the same weights."""
    size = CONFIG.language
    config = Gemma3TextConfig(
        vocab_size=CONFIG.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        query_pre_attn_scalar=size.head_dim,
        sliding_window=CONFIG.window,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=None,
    )
    twin = Gemma3ForCausalLM(config).eval()
    twin.model.load_state_dict(model.language.state_dict())
    twin.tie_weights()
    return twin


def assert_close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)


def project(model, features):
    """The two layers by hand, with the exact GELU; (V, P, W) to (V P, W)."""
    first, _, last = model.projector
    hidden = functional.linear(features, first.weight, first.bias)
    hidden = 0.5 * hidden * (1.0 + torch.erf(hidden / 2**0.5))
    return functional.linear(hidden, last.weight, last.bias).flatten(0, 1)


def sequence(model, twin, features, mask, ids, id_mask):
    """Embeddings of one row without padding: the pictures that are there stand in the text."""
    text = ids[id_mask]
    here = (text == CONFIG.image_id).nonzero().flatten()
    embed = twin.get_input_embeddings()
    if not len(here):
        return embed(text)[None]
    first, last = int(here[0]), int(here[-1])
    parts = [embed(text[:first]), project(model, features[mask]), embed(text[last + 1 :])]
    return torch.cat(parts)[None]


@torch.no_grad()
def test_the_value_is_read_at_the_last_token_of_the_expanded_sequence(model, twin):
    features, mask, ids, id_mask = value_batch(CONFIG)
    mask[1, 0] = False
    logits = model(features, mask, ids, id_mask)
    assert logits.shape == (2, 201)
    assert logits.dtype == torch.float32
    for row in range(2):
        embeds = sequence(model, twin, features[row], mask[row], ids[row], id_mask[row])
        hidden = twin.model(inputs_embeds=embeds).last_hidden_state[0, -1]
        assert_close(logits[row], model.head.weight @ hidden + model.head.bias)


@torch.no_grad()
def test_language_logits_are_those_of_transformers(model, twin):
    features, mask, ids, id_mask = value_batch(CONFIG)
    mask[0, 1] = False
    logits = model.language_logits(features, mask, ids, id_mask)
    assert logits.shape == (*ids.shape, CONFIG.vocabulary)
    for row in range(2):
        embeds = sequence(model, twin, features[row], mask[row], ids[row], id_mask[row])
        theirs = twin(inputs_embeds=embeds).logits[0]
        there = id_mask[row].clone()
        there[ids[row] == CONFIG.image_id] = mask[row].repeat_interleave(CONFIG.image_tokens)
        assert_close(logits[row, there], theirs)


@torch.no_grad()
def test_pictures_stand_where_the_text_says_and_a_row_may_have_none(model, twin):
    features, mask, _, _ = value_batch(CONFIG)
    image = [CONFIG.image_id] * 8
    rows = [[7, 8, *image, 9], [7, 8, 9]]
    ids = torch.tensor([row + [0] * (11 - len(row)) for row in rows])
    id_mask = torch.arange(11) < torch.tensor([[11], [3]])
    logits = model.language_logits(features, mask, ids, id_mask)
    for row in range(2):
        embeds = sequence(model, twin, features[row], mask[row], ids[row], id_mask[row])
        assert_close(logits[row, id_mask[row]], twin(inputs_embeds=embeds).logits[0])


@torch.no_grad()
def test_a_text_without_pictures_is_read_as_gemma_reads_it(model, twin):
    features, mask, ids, id_mask = value_batch(CONFIG)
    mask[:] = False
    text = ids[:, 9:]
    text, there = torch.cat([ids[:, :1], text], 1), torch.cat([id_mask[:, :1], id_mask[:, 9:]], 1)
    theirs = twin(input_ids=text, attention_mask=there.long()).logits
    ours = model.language_logits(features, mask, text, there)
    assert_close(ours[there], theirs[there])


@torch.no_grad()
def test_no_token_sees_what_follows_it(model):
    features, mask, ids, id_mask = value_batch(CONFIG, TASKS[:1])
    before = model.language_logits(features, mask, ids, id_mask)
    ids[0, -2] = (ids[0, -2] + 1) % CONFIG.vocabulary
    after = model.language_logits(features, mask, ids, id_mask)
    assert torch.equal(after[:, :-2], before[:, :-2])
    assert (after[:, -2:] != before[:, -2:]).any(-1).all()


def test_both_heads_train_the_same_projector(model):
    features, mask, ids, id_mask = value_batch(CONFIG)
    for loss in (
        model(features, mask, ids, id_mask).square().mean(),
        model.language_logits(features, mask, ids, id_mask)[id_mask].square().mean(),
    ):
        gradient = torch.autograd.grad(loss, model.projector[0].weight)[0]
        assert gradient.isfinite().all()
        assert gradient.any()
