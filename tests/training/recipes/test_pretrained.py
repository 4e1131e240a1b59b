# SPDX-License-Identifier: Apache-2.0
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretrained_samples import GEMMA, VISION, edit, make_gemma, make_siglip, make_siglip_vision
from safetensors.torch import load_file, save_file

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_config import tiny
from vla_nodes.models.value_model import make_value_model
from vla_nodes.models.value_parts import run_language
from vla_training.recipes.pretrained import load_pretrained, pretrained_config
from vla_training.recipes.pretrained_tokenizer import gemma_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders and models of transformers. Not to be written to."""
    root = tmp_path_factory.mktemp("parts")
    siglip, gemma = root / "siglip", root / "gemma"
    return siglip, make_siglip(siglip), gemma, make_gemma(gemma)


@pytest.fixture
def copies(parts, tmp_path):
    """Folders that may be changed."""
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in (parts[0], parts[2]))


def filled(siglip, gemma, arch="stitched"):
    siglip, gemma = (folder and str(folder) for folder in (siglip, gemma))
    model = make_value_model(pretrained_config(arch, siglip, gemma, tiny(arch)))
    return model, load_pretrained(model, siglip, gemma)


@pytest.mark.parametrize("arch", ["stitched", "cross-attention"])
def test_features_of_pictures_are_those_of_transformers(parts, arch):
    siglip, theirs, gemma, _ = parts
    model, _ = filled(siglip, gemma, arch)
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = theirs.vision_model(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(model.encode(pixels), expected)


def test_hidden_states_of_texts_are_those_of_transformers(parts):
    """Longer than the window of the local layers, and through both kinds of them."""
    siglip, _, gemma, theirs = parts
    model, _ = filled(siglip, gemma)
    ids = torch.randint(0, 400, (2, 15), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeds = model.language.embed_tokens(ids)
        ours = run_language(model.language, embeds, torch.ones_like(ids).bool(), causal=True)
        expected = theirs.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(ours, expected)
    near = theirs.model(input_ids=ids[:, -GEMMA["sliding_window"] :]).last_hidden_state
    assert not torch.allclose(near[:, -1], expected[:, -1], atol=1e-3)


def test_the_picture_tower_alone_serves_as_well(tmp_path):
    theirs = make_siglip_vision(tmp_path)
    model, report = filled(tmp_path, None)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(model.encode(pixels), expected)
    assert "Gemma" not in report


def test_the_language_model_may_lie_there_without_its_head_and_prefix(parts, tmp_path):
    siglip, _, gemma, theirs = parts
    theirs.model.save_pretrained(tmp_path)
    one, _ = filled(siglip, gemma)
    other, _ = filled(siglip, tmp_path)
    for name, tensor in one.language.state_dict().items():
        assert torch.equal(tensor, other.language.state_dict()[name])


def test_the_report_says_what_was_left_out_and_what_is_new(parts):
    siglip = parts[0]
    before = make_value_model(pretrained_config("stitched", str(siglip), None, tiny("stitched")))
    new = {n: t.clone() for n, t in before.state_dict().items() if n.startswith(("head", "proj"))}
    report = load_pretrained(before, str(siglip), None)
    assert "logit_bias, logit_scale, text_model, vision_model" in report
    assert "projector, head" in report
    assert all(torch.equal(before.state_dict()[name], tensor) for name, tensor in new.items())


def test_sizes_are_those_of_the_folders(parts):
    siglip, _, gemma, _ = parts
    base = replace(tiny("stitched"), history=3, max_tokens=20, image_size=64)
    config = pretrained_config("cross-attention", str(siglip), str(gemma), base)
    assert (config.arch, config.history, config.max_tokens) == ("cross-attention", 3, 20)
    assert (config.image_size, config.vision.patch, config.vision.mlp) == (32, 16, 48)
    assert (config.language.depth, config.window, config.vocabulary) == (7, 6, 400)
    alone = pretrained_config("stitched", None, str(gemma), base)
    assert (alone.image_size, alone.vision) == (64, base.vision)


def test_half_precision_is_read_as_what_it_is(copies):
    siglip, gemma = copies
    halved = {n: t.bfloat16() for n, t in load_file(gemma / WEIGHTS).items()}
    save_file(halved, gemma / WEIGHTS, {"format": "pt"})
    model, _ = filled(siglip, gemma)
    weight = model.language.layers[3].mlp.up_proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, halved["model.layers.3.mlp.up_proj.weight"].float())


def test_a_head_that_is_stored_beside_the_embedding_is_left_out(copies):
    siglip, gemma = copies
    tensors = load_file(gemma / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, gemma / WEIGHTS, {"format": "pt"})
    _, report = filled(siglip, gemma)
    assert "1 left out: lm_head" in report


@pytest.mark.parametrize("which", [0, 1])
def test_tensors_that_fit_nothing_are_refused(copies, which):
    file = copies[which] / WEIGHTS
    tensors = load_file(file)
    name = next(
        n
        for n in tensors
        if "layers.1" in n
        and n.endswith("norm1.weight" if which == 0 else "_proj.weight")
        and "text" not in n
    )
    save_file({**tensors, "model.surplus.weight": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 of no part of it: model\.surplus\.weight"):
        filled(*copies)
    save_file({n: t for n, t in tensors.items() if n != name}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing: .*layers\.1"):
        filled(*copies)
    save_file({**tensors, name: torch.zeros(7)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 wrong: .*layers\.1.* is F32 \(7,\), expected"):
        filled(*copies)
    save_file({**tensors, name: tensors[name] * np.nan}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not finite"):
        filled(*copies)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("query_pre_attn_scalar", 32),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("hidden_activation", "gelu"),
        ("rms_norm_eps", 1e-5),
        ("attention_bias", True),
        ("use_bidirectional_attention", True),
        ("tie_word_embeddings", False),
        ("layer_types", ["sliding_attention"] * 7),
        ("rope_theta", 10000.0),
        ("rope_local_base_freq", 1000000.0),
        ("rope_scaling", {"rope_type": "linear", "factor": 8.0}),
        ("sliding_window", 0),
        ("vocab_size", "many"),
        ("hidden_size", None),
        ("num_hidden_layers", 1 << 40),
        ("model_type", "gemma3"),
        ("model_type", "gemma2"),
    ],
)
def test_a_language_model_of_another_kind_is_refused_by_name(copies, name, value):
    siglip, gemma = copies
    edit(gemma / "config.json", **{name: value})
    shown = {"rope_theta": "full_attention", "rope_scaling": "full_attention"}
    shown |= {"rope_local_base_freq": "sliding_attention"}
    with pytest.raises(CheckpointError, match=shown.get(name, name)) as caught:
        pretrained_config("stitched", str(siglip), str(gemma), tiny("stitched"))
    assert str(gemma) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "quick_gelu"),
        ("layer_norm_eps", 1e-5),
        ("num_channels", 1),
        ("image_size", [32, 32]),
        ("patch_size", 0),
    ],
)
def test_a_picture_tower_of_another_kind_is_refused_by_name(copies, name, value):
    siglip, gemma = copies
    edit(siglip / "config.json", vision_config=lambda values: {**values, name: value})
    with pytest.raises(CheckpointError, match=name):
        pretrained_config("stitched", str(siglip), str(gemma), tiny("stitched"))


def test_folders_that_are_exchanged_are_refused(copies):
    siglip, gemma = map(str, copies)
    with pytest.raises(CheckpointError, match="model_type is 'gemma3_text'"):
        pretrained_config("stitched", gemma, siglip, tiny("stitched"))


def test_pictures_of_another_size_than_the_positions_are_refused(parts):
    siglip, _, gemma, _ = parts
    config = pretrained_config("stitched", str(siglip), str(gemma), tiny("stitched"))
    model = make_value_model(replace(config, image_size=64))
    with pytest.raises(CheckpointError, match="image_size is 32, and the model's 64"):
        load_pretrained(model, str(siglip), str(gemma))


def test_weights_that_may_run_code_are_refused(copies):
    siglip, gemma = copies
    (siglip / WEIGHTS).rename(siglip / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, which may run code"):
        filled(siglip, gemma)


def test_without_a_network_a_name_on_the_hub_is_looked_for_at_home_only(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        pretrained_config("stitched", "nobody/no-siglip", None, tiny("stitched"))


def test_sizes_that_are_left_to_the_library_are_known(copies):
    """Some published folders name only what is not its default."""
    siglip, gemma = copies
    edit(siglip / "config.json", vision_config={"model_type": "siglip_vision_model"})
    config = pretrained_config("stitched", str(siglip), str(gemma), tiny("stitched"))
    assert (config.vision.width, config.vision.depth, config.image_size) == (768, 12, 224)
    assert VISION["hidden_size"] != 768


def test_a_token_beyond_the_embedding_is_left_out(parts):
    gemma = parts[2]
    whole = Tokenizer.read(gemma)
    ours = gemma_tokenizer(str(gemma))
    assert (whole.size, ours.size) == (GEMMA["vocab_size"] + 1, GEMMA["vocab_size"])
    text = "what colour is <image_soft_token> <bos> it"
    assert ours.encode(text) == whole.encode(text)
    assert (ours.bos_id, ours.eos_id) == (whole.bos_id, whole.eos_id)


def test_a_folder_without_a_tokenizer_is_named(copies):
    gemma = copies[1]
    (gemma / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=rf"{gemma}/tokenizer\.json is missing"):
        gemma_tokenizer(str(gemma))


def test_a_shard_and_its_index_are_read(parts, tmp_path):
    siglip, _, gemma, theirs = parts
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    one, _ = filled(siglip, gemma)
    other, _ = filled(siglip, tmp_path)
    assert torch.equal(
        one.language.layers[6].mlp.up_proj.weight, other.language.layers[6].mlp.up_proj.weight
    )
