# SPDX-License-Identifier: Apache-2.0
"""The value function with cross attention, its parts and the whole, against others' modules."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from value_samples import TASKS, make_config, make_value, random_features, value_batch

from vla_nodes.models.c51 import value_loss
from vla_nodes.models.cross_attention_value import CrossAttention
from vla_nodes.models.value_config import full
from vla_nodes.models.value_model import make_value_model, new_layers
from vla_nodes.models.value_parts import run_language

ARCHS = ("cross-attention", "stitched")
CONFIG = make_config("cross-attention")


@pytest.fixture(scope="module")
def model():
    return make_value(CONFIG)


def assert_close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)


def gemma_config(config, **changes):
    """As Gemma 3's own files say it, of this size."""
    size = config.language
    return Gemma3TextConfig(
        vocab_size=config.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        query_pre_attn_scalar=size.head_dim,
        **{"sliding_window": config.window, "layer_types": LAYERS[: size.depth], **changes},
    )


LAYERS = ["sliding_attention", "full_attention"]
"""Of a tiny one."""


def twin(language, config, **changes):
    """transformers' model, of weights of the same names."""
    other = Gemma3TextModel(gemma_config(config, **changes)).eval()
    other.load_state_dict(language.state_dict())
    return other


# --- the language model on embeddings ---------------------------------------------------------


def make_language(window=512):
    config = make_config("stitched", window=window)
    return make_value(config).language, config


def random_embeds(lengths, places=None, seed=0):
    """Of rows that are as long, padded on the right with what is no padding's business."""
    places = places or max(lengths)
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(lengths), places, CONFIG.language.width, generator=generator)
    return embeds, torch.arange(places) < torch.tensor(lengths)[:, None]


@torch.no_grad()
@pytest.mark.parametrize("window", [512, 3, 1])
def test_causal_is_that_of_transformers(window):
    language, config = make_language(window)
    embeds, valid = random_embeds([9, 5, 1])
    theirs = twin(language, config)(inputs_embeds=embeds, attention_mask=valid.long())
    ours = run_language(language, embeds, valid, causal=True)
    assert_close(ours[valid], theirs.last_hidden_state[valid])


@torch.no_grad()
@pytest.mark.parametrize("window", [512, 3, 1])
def test_bidirectional_is_that_of_transformers(window):
    language, config = make_language(window)
    embeds, valid = random_embeds([9, 5, 1])
    # There the window is halved, and one added.
    other = twin(
        language, config, use_bidirectional_attention=True, sliding_window=2 * (window - 1)
    )
    theirs = other(inputs_embeds=embeds, attention_mask=valid.long())
    ours = run_language(language, embeds, valid, causal=False)
    assert_close(ours[valid], theirs.last_hidden_state[valid])


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [512, 3])
def test_what_is_not_valid_might_as_well_not_be_there(causal, window):
    language, _ = make_language(window)
    embeds, _ = random_embeds([10, 10, 10])
    valid = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0, 1, 1, 1, 0],
            [1, 0, 0, 0, 1, 0, 1, 0, 1, 1],
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
    ).bool()
    together = run_language(language, embeds, valid, causal=causal)
    assert together.isfinite().all()
    for row, there in enumerate(valid):
        alone = embeds[row : row + 1, there]
        every = torch.ones(alone.shape[:2], dtype=torch.bool)
        assert_close(together[row, there], run_language(language, alone, every, causal=causal)[0])


@torch.no_grad()
@pytest.mark.parametrize(("causal", "window"), [(True, 4), (False, 4), (False, 512)])
def test_a_place_sees_what_its_mask_says(causal, window):
    language, _ = make_language(window)
    embeds, valid = random_embeds([8])
    language.config.num_hidden_layers = 1  # a local one; then a place depends on what it sees
    before = run_language(language, embeds, valid, causal=causal)[0]
    for moved in range(8):
        other = embeds.clone()
        other[0, moved] += 1.0
        changed = (run_language(language, other, valid, causal=causal)[0] != before).any(-1)
        places = np.arange(8)
        seeing = (abs(places - moved) < window) & ((places >= moved) | (not causal))
        assert changed.tolist() == seeing.tolist()


# --- SigLIP and the cross attention -----------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_features_are_those_of_transformers_siglip(arch):
    config = make_config(arch, image_size=40)  # no multiple of the patch
    model, size = make_value(config), config.vision
    theirs = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=size.width,
            intermediate_size=size.mlp,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            image_size=40,
            patch_size=size.patch,
        )
    ).eval()
    report = theirs.load_state_dict(model.vision.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(key.startswith("vision_model.head.") for key in report.missing_keys)
    pixels = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = model.encode(pixels)
    assert ours.shape == (3, config.image_tokens, size.width)
    assert_close(ours, theirs(pixel_values=pixels).last_hidden_state)


@torch.no_grad()
def test_cross_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours = CrossAttention(32, 4)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    nn.init.normal_(ours.norm.weight)
    nn.init.normal_(ours.norm.bias)
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
    theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    theirs.out_proj.load_state_dict(ours.o_proj.state_dict())
    text, pictures = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1, 0]]).bool()
    found, _ = theirs(ours.norm(text), pictures, pictures, key_padding_mask=~valid)
    assert_close(ours(text, pictures, valid), text + found)


# --- the whole --------------------------------------------------------------------------------


def step_by_step(model, features, mask, ids, id_mask):
    """One row, of what is there alone, by hand in float64 but for Gemma's layers."""
    config, double = model.config, copy.deepcopy(model).double()
    weights = double.state_dict()
    linear = lambda x, name: x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]  # noqa: E731

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    pictures = linear(features[mask].double(), "projection").flatten(0, 1)
    text = weights["language.embed_tokens.weight"][ids[id_mask]] * config.language.width**0.5
    q = linear(norm(text, "cross_attention.norm"), "cross_attention.q_proj")
    k, v = (linear(pictures, f"cross_attention.{name}_proj") for name in "kv")
    found, size = [], config.language.width // config.attention_heads
    for head in range(config.attention_heads):
        part = slice(head * size, (head + 1) * size)
        scores = (q[:, part] @ k[:, part].T / size**0.5).exp()
        found.append(scores / scores.sum(-1, keepdim=True) @ v[:, part])
    fused = text + linear(torch.cat(found, -1), "cross_attention.o_proj")
    other = Gemma3TextModel(gemma_config(config, use_bidirectional_attention=True)).eval()
    other.load_state_dict(model.language.state_dict())
    sequence = torch.cat([pictures, fused]).float()[None]
    pooled = other(inputs_embeds=sequence).last_hidden_state[0].double().mean(0)
    hidden = linear(norm(pooled, "head.0"), "head.1")
    hidden = 0.5 * hidden * (1 + torch.tanh((2 / np.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    return linear(hidden, "head.3")


@torch.no_grad()
def test_the_whole_is_that_of_its_steps(model):
    features, mask, ids, id_mask = value_batch(CONFIG)
    mask[1, 0] = False
    logits = model(features, mask, ids, id_mask)
    assert logits.shape == (2, 201)
    assert logits.dtype == torch.float32
    assert id_mask.sum(-1).unique().numel() == 2  # of different lengths
    for row in range(2):
        alone = step_by_step(model, features[row], mask[row], ids[row], id_mask[row])
        assert_close(logits[row].double(), alone, atol=1e-4)


# --- what both value functions do -------------------------------------------------------------


@pytest.fixture(scope="module", params=ARCHS)
def either(request):
    return make_value(make_config(request.param))


@torch.no_grad()
def test_logits_depend_on_the_text(either):
    logits = either(*value_batch(either.config, TASKS))
    other = either(*value_batch(either.config, (TASKS[0], TASKS[1] + " now")))
    assert_close(logits[0], other[0])
    assert (logits[1] - other[1]).abs().max() > 1e-3


@torch.no_grad()
def test_logits_depend_on_every_picture(either):
    features, *rest = value_batch(either.config, TASKS, cameras=3)
    before = either(features, *rest)
    for view in range(3):
        other = features.clone()
        other[:, view] = -other[:, view]
        assert (either(other, *rest) - before).abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_order_of_the_cameras_matters(either):
    features, *rest = value_batch(either.config)
    assert (either(features, *rest) - either(features.flip(1), *rest)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(either, side):
    features, mask, ids, id_mask = value_batch(either.config, TASKS)
    before = either(features, mask, ids, id_mask)
    extra = (3, 0) if side == "left" else (0, 3)
    padded = functional.pad(ids, extra, value=5), functional.pad(id_mask, extra, value=False)
    assert_close(either(features, mask, *padded), before)
    alone = value_batch(either.config, TASKS[1:])
    assert alone[2].shape[1] < ids.shape[1]
    assert_close(either(features[1:], mask[1:], *alone[2:]), before[1:])


@torch.no_grad()
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_camera_might_as_well_not_be_listed(either, absent):
    config = either.config
    features, mask, ids, id_mask = value_batch(config, TASKS, cameras=3)
    mask[:, absent] = False
    features[:, absent] *= 100.0
    there = [view for view in range(3) if view != absent]
    _, _, fewer, fewer_mask = value_batch(config, TASKS, cameras=2)
    without = either(features[:, there], mask[:, there], fewer, fewer_mask)
    assert_close(either(features, mask, ids, id_mask), without)


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_frames_of_a_history_are_told_apart_by_their_age(arch):
    config = make_config(arch, history=3)
    model = make_value(config)
    features, mask, ids, id_mask = value_batch(config)
    assert features.shape[1] == 6
    before = model(features, mask, ids, id_mask)
    ages = model.ages.embedding.weight
    tokens = torch.zeros(1, 6, config.image_tokens, config.language.width)
    added = model.ages(tokens)[0, :, 0]
    assert torch.equal(added, ages.repeat(2, 1))  # both cameras from the oldest to the newest
    assert min((a - b).abs().max() for a, b in pairwise(ages)) > 0.01
    model.ages.embedding.weight.copy_(ages.flip(0))
    assert (model(features, mask, ids, id_mask) - before).abs().max() > 1e-3
    with pytest.raises(ValueError, match="5 views, expected 3 of each camera"):
        model(features[:, :5], mask[:, :5], ids, id_mask)


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_frames_that_are_not_there_yet_change_nothing(arch):
    config = make_config(arch, history=2)
    model = make_value(config)
    features, mask, ids, id_mask = value_batch(config, cameras=1)
    mask[:, 0] = False
    before = model(features, mask, ids, id_mask)
    features[:, 0] = 7.0
    assert torch.equal(model(features, mask, ids, id_mask), before)


@pytest.mark.parametrize("arch", ARCHS)
def test_training_moves_all_but_what_is_frozen(arch):
    model = make_value(make_config(arch, history=2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3, weight_decay=0.01)
    _, mask, ids, id_mask = value_batch(model.config)
    pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = []
    for _ in range(4):
        features = model.encode(pixels).unflatten(0, (2, 4))
        loss = value_loss(model(features, mask, ids, id_mask), torch.tensor([-0.9, -0.2])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    unmoved = {n for n, tensor in model.state_dict().items() if torch.equal(tensor, before[n])}
    assert unmoved == ({"language.embed_tokens.weight"} if arch == "cross-attention" else set())


@pytest.mark.parametrize("arch", ARCHS)
def test_autocast_leaves_the_head_in_float32(arch):
    model = make_value(make_config(arch, history=2))
    batch = value_batch(model.config)
    exact = model(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*batch)
    assert logits.dtype == torch.float32
    assert torch.cosine_similarity(logits, exact).min() > 0.99
    assert (logits != logits.bfloat16().float()).any()


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_graphs_of_fixed_shapes_can_be_exported(arch):
    config = make_config(arch, history=2)
    model = make_value(config)
    batch = value_batch(config)
    graph = torch.export.export(model, batch).module()
    features, mask, ids, id_mask = value_batch(config, TASKS[::-1], seed=1)
    mask[0, :2] = False
    other = (features, mask, ids, id_mask)
    assert_close(graph(*other), model(*other))


# --- names and sizes --------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_pretrained_parts_load_by_name(arch):
    config = make_config(arch)
    state = make_value_model(config).state_dict()
    size = config.vision
    published = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=size.width,
            intermediate_size=size.mlp,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            image_size=config.image_size,
            patch_size=size.patch,
        )
    ).state_dict()
    vision = {n.removeprefix("vision.") for n in state if n.startswith("vision.")}
    assert vision == {n for n in published if not n.startswith("vision_model.head.")}
    language = {n.removeprefix("language.") for n in state if n.startswith("language.")}
    assert language == set(Gemma3TextModel(gemma_config(config)).state_dict())
    new = set(new_layers(make_value_model(config)))
    assert new == {n for n in state if not n.startswith(("vision.", "language."))}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_full_size_is_the_published_one():
    with torch.device("meta"):
        crossing, stitched = (make_value_model(full(arch)) for arch in ARCHS)
    assert (full(ARCHS[0]).image_tokens, full(ARCHS[1]).image_tokens) == (256, 729)
    assert count(crossing.projection) == 1152 * 640 + 640
    assert count(crossing.cross_attention) == 4 * (640 * 640 + 640) + 2 * 640
    assert crossing.config.language.width // crossing.cross_attention.heads == 80
    assert [m.out_features for m in crossing.head if isinstance(m, nn.Linear)] == [320, 201]
    assert count(stitched.projector) == 2_066_176
    assert count(stitched.head) == 128_841
    for model in (crossing, stitched):
        assert count(model.language) == 268_098_176  # Gemma 3 270M
        config = model.language.config
        assert config.layer_types == (["sliding_attention"] * 5 + ["full_attention"]) * 3
        assert config.sliding_window == 512
        assert config.query_pre_attn_scalar == 256
        assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
        assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    depth, width, mlp = 27, 1152, 4304
    layer = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width
    patches = 3 * 14 * 14 * width + width + 2 * width
    assert count(crossing.vision) == depth * layer + patches + 256 * width


@pytest.mark.parametrize("arch", ARCHS)
def test_a_small_language_model_has_local_layers_and_a_global_one(arch):
    types = make_value_model(make_config(arch)).language.config.layer_types
    assert types == LAYERS


def test_features_of_one_picture_serve_in_any_batch():
    model = make_value(CONFIG)
    with torch.no_grad():
        pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert_close(model.encode(pixels)[2:3], model.encode(pixels[2:3]))
    assert random_features(CONFIG)[0].shape[2:] == model.encode(pixels).shape[1:]
