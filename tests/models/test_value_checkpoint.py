# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of value functions, and what is said of those that cannot be used."""

import json
import os
import shutil
from dataclasses import replace
from types import MappingProxyType

import checkpoint_samples
import pytest
import tokenizers
import torch
from pi05_samples import make_model
from safetensors.torch import load_file, save_file
from tokenizer_samples import paligemma_like
from value_samples import (
    TASKS,
    make_config,
    make_interface,
    make_value,
    make_value_tokenizer,
    value_batch,
)

from vla_nodes.models import checkpoint_folder, value_checkpoint, weights
from vla_nodes.models.checkpoint import write_checkpoint
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.pi05_config import tiny as tiny_pi05
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_checkpoint import (
    load_value_model,
    read_value_checkpoint,
    write_value_checkpoint,
)

ARCHS = ("cross-attention", "stitched")
CONFIGS = {arch: make_config(arch, history=2, history_step=0.25) for arch in ARCHS}


def write(folder, model, **changes):
    parts = {
        "config": model.config,
        "interface": make_interface(),
        "tokenizer": make_value_tokenizer(),
    }
    write_value_checkpoint(folder, **{"weights": model, **parts, **changes})


@pytest.fixture(scope="module")
def models():
    return {arch: make_value(CONFIGS[arch]) for arch in ARCHS}


@pytest.fixture(scope="module")
def written(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("values")
    for arch, model in models.items():
        write(folder / arch, model)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A stitched one to damage."""
    return shutil.copytree(written / "stitched", tmp_path / "value")


def edit(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def edit_weights(folder, **changes):
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")


def assert_same_weights(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


# --- writing and reading ----------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_what_is_written_is_read_bit_by_bit(models, written, arch):
    checkpoint = read_value_checkpoint(written / arch)
    assert checkpoint.folder == written / arch
    assert checkpoint.config == CONFIGS[arch]
    assert checkpoint.interface == make_interface()
    assert checkpoint.tokenizer.encode(TASKS[0]) == make_value_tokenizer().encode(TASKS[0])
    loaded = load_value_model(checkpoint)
    assert not loaded.training
    assert_same_weights(loaded, models[arch])
    for name, buffer in models[arch].named_buffers():
        assert torch.equal(dict(loaded.named_buffers())[name], buffer), name
    batch = value_batch(CONFIGS[arch])
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(*batch), models[arch](*batch))
        assert torch.equal(loaded.encode(pixels), models[arch].encode(pixels))


@pytest.mark.parametrize("arch", ARCHS)
def test_frozen_words_stay_frozen_when_loaded(written, arch):
    loaded = load_value_model(read_value_checkpoint(written / arch))
    frozen = [name for name, p in loaded.named_parameters() if not p.requires_grad]
    assert frozen == (["language.embed_tokens.weight"] if arch == "cross-attention" else [])


@pytest.mark.parametrize("arch", ARCHS)
def test_bfloat16_is_stored_and_loaded_bit_by_bit(models, tmp_path, arch):
    halves = {name: tensor.bfloat16() for name, tensor in models[arch].state_dict().items()}
    write(tmp_path / "a", models[arch], weights=halves)
    stored = load_file(tmp_path / "a/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    checkpoint = read_value_checkpoint(tmp_path / "a")
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_value_model(checkpoint, dtype)
        for name, tensor in loaded.state_dict().items():
            kept = torch.float32 if name.startswith("head.") else dtype
            assert tensor.dtype == kept, name
            assert torch.equal(tensor, halves[name].to(kept)), name


@pytest.mark.parametrize("arch", ARCHS)
def test_in_bfloat16_it_estimates_nearly_the_same(models, written, arch):
    loaded = load_value_model(read_value_checkpoint(written / arch), torch.bfloat16)
    rotary = loaded.language.rotary_emb
    assert {buffer.dtype for buffer in rotary.buffers()} == {torch.float32}
    with torch.no_grad():
        features, *rest = value_batch(CONFIGS[arch])
        logits = loaded(features, *rest)
        exact = models[arch](features, *rest)
        pixels = torch.rand(2, 3, 32, 32)
        encoded, precise = (m.encode(pixels).float() for m in (loaded, models[arch]))
    assert logits.dtype == torch.float32
    assert torch.cosine_similarity(logits, exact).min() > 0.99
    assert torch.cosine_similarity(encoded, precise, dim=-1).min() > 0.99


def test_a_model_that_was_only_aligned_has_no_interface(models, tmp_path):
    write(tmp_path / "a", models["stitched"], interface=None)
    assert read_value_checkpoint(tmp_path / "a").interface is None
    assert not (tmp_path / "a/value.json").exists()


def test_labels_may_be_any_mapping(models, tmp_path):
    labels = MappingProxyType({"returns": "global", "max_steps": 500})
    write(tmp_path / "a", models["stitched"], interface=replace(make_interface(), labels=labels))
    read = read_value_checkpoint(tmp_path / "a").interface
    assert read.labels == dict(labels)


def test_others_may_read_the_weights(written):
    files = [written / "stitched" / name for name in ("model.safetensors", "config.json")]
    assert files[0].stat().st_mode == files[1].stat().st_mode


def gemma_like(special: bool, more: int = 0) -> Tokenizer:
    """With a token beyond the rows of the embedding, as Gemma 3's has one for pictures."""
    library = paligemma_like()
    rows = library.get_vocab_size()
    tokens = ["<image_soft_token>", *(f"<more{i}>" for i in range(more))]
    (library.add_special_tokens if special else library.add_tokens)(tokens)
    assert library.get_vocab_size() == rows + 1 + more
    return Tokenizer(library)


def test_the_tokenizer_that_comes_with_gemma_fits(tmp_path):
    rows = paligemma_like().get_vocab_size()
    model = make_value(make_config("stitched", vocabulary=rows))
    write(tmp_path / "a", model, tokenizer=gemma_like(special=True))
    tokenizer = read_value_checkpoint(tmp_path / "a").tokenizer
    assert tokenizer.size == rows + 1
    assert max(tokenizer.encode("a <image_soft_token>")) < rows


@pytest.mark.parametrize(("special", "more"), [(False, 0), (True, 1)])
def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(tmp_path, special, more):
    rows = paligemma_like().get_vocab_size()
    model = make_value(make_config("stitched", vocabulary=rows))
    words = f"tokenizer has {rows + 1 + more} tokens, the model {rows}; put the model's own"
    with pytest.raises(CheckpointError, match=words):
        write(tmp_path / "a", model, tokenizer=gemma_like(special, more))


def test_padding_beyond_the_embedding_is_refused(tmp_path):
    words = ["a", "<bos>", "<eos>", "<pad>"]
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE({word: place for place, word in enumerate(words)}, [])
    )
    model = make_value(make_config("stitched", vocabulary=3))
    with pytest.raises(CheckpointError, match="tokenizer has 4 tokens, the model 3"):
        write(tmp_path / "a", model, tokenizer=Tokenizer(library))


# --- writing, interrupted or refused ----------------------------------------------------------


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (weights, "save_file"),
        (value_checkpoint, "write_object"),
        (Tokenizer, "write"),
        (checkpoint_folder, "sync"),
        (checkpoint_folder, "_exchange"),
    ],
)
def test_an_interrupted_writing_leaves_what_was_there(folder, models, monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(folder, make_value(CONFIGS["stitched"], seed=1))
    assert_same_weights(load_value_model(read_value_checkpoint(folder)), models["stitched"])
    assert [path.name for path in folder.parent.iterdir()] == ["value"]


def test_a_checkpoint_is_replaced_as_a_whole(folder):
    (folder / "calibration.json").write_text("{}")  # of the weights that were there
    other = make_value(CONFIGS["cross-attention"], seed=1)
    write(folder, other, interface=None)
    assert_same_weights(load_value_model(read_value_checkpoint(folder)), other)
    assert not (folder / "calibration.json").exists()
    assert not (folder / "value.json").exists()


def test_weights_that_are_no_numbers_do_not_replace_good_ones(folder, models):
    bad = models["stitched"].state_dict() | {"head.bias": torch.full((201,), torch.nan)}
    with pytest.raises(CheckpointError, match=r"value: weights are not finite numbers: head\.bias"):
        write(folder, models["stitched"], weights=bad)
    assert_same_weights(load_value_model(read_value_checkpoint(folder)), models["stitched"])


def write_policy(folder):
    parts = (
        checkpoint_samples.make_robot(),
        checkpoint_samples.make_normalization(),
        checkpoint_samples.make_tokenizer(),
    )
    write_checkpoint(folder, make_model(), tiny_pi05(), *parts)


def test_a_policy_is_neither_read_as_a_value_function_nor_replaced_by_one(models, tmp_path):
    write_policy(tmp_path / "policy")
    words = r"config\.json: type is 'pi05', expected 'vla_value': this is no value function"
    with pytest.raises(CheckpointError, match=words):
        read_value_checkpoint(tmp_path / "policy")
    with pytest.raises(CheckpointError, match=words):
        write(tmp_path / "policy", models["stitched"])
    assert (tmp_path / "policy/normalization.json").exists()


def test_a_folder_of_something_else_is_left_alone(models, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"something else than a checkpoint .*; name another"):
        write(tmp_path, models["stitched"])
    assert (tmp_path / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shares": (0.8, 0.1, 0.2)}, r"shares is \[0\.8, 0\.1, 0\.2\], expected three numbers"),
        ({"cameras": ()}, "cameras is .*, expected names of one camera at least"),
        ({"tasks": ("",)}, "tasks is .*, expected a list of texts of 1 to 2000"),
        ({"fps": float("nan")}, "fps is nan, expected a number above 0"),
    ],
)
def test_an_interface_that_could_not_be_read_is_not_written(models, tmp_path, changes, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        write(tmp_path / "a", models["stitched"], interface=replace(make_interface(), **changes))
    assert f"{tmp_path / 'a'}/value.json: " in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_replaced_before_it_is_loaded_is_not_mixed_with_the_new(folder):
    checkpoint = read_value_checkpoint(folder)
    write(folder, make_value(CONFIGS["stitched"], seed=1))
    with pytest.raises(CheckpointError, match="was replaced while it was read; read it again"):
        load_value_model(checkpoint)


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", r"config\.json is missing"),
        ("model.safetensors", r"model\.safetensors is missing"),
        ("tokenizer/tokenizer.json", r"tokenizer\.json is missing; copy the model's own"),
    ],
)
def test_a_missing_file_is_named(folder, name, words):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=words):
        read_value_checkpoint(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none is no folder, nor OWNER/NAME"):
        read_value_checkpoint(tmp_path / "none")


def test_weights_of_the_other_architecture_are_refused(folder, written):
    shutil.copy(written / "cross-attention/model.safetensors", folder)
    with pytest.raises(
        CheckpointError, match=r"weights do not fit .* missing: projector.* unexpected: cross_att"
    ):
        read_value_checkpoint(folder)


BIAS = "head.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({BIAS: None}, r"1 missing: head\.bias"),
        ({BIAS: torch.zeros(51)}, r"1 wrong: head\.bias is F32 \(51,\), expected .* \(201,\)"),
        ({BIAS: torch.zeros(201, dtype=torch.int8)}, r"1 wrong: head\.bias is I8 \(201,\)"),
        ({"extra.weight": torch.zeros(2)}, r"1 unexpected: extra\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_they_are_read(folder, change, words):
    edit_weights(folder, **change)
    with pytest.raises(CheckpointError, match=words):
        read_value_checkpoint(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    edit_weights(folder, **{BIAS: torch.full((201,), torch.inf)})
    with pytest.raises(CheckpointError, match=r"not finite numbers: head\.bias"):
        load_value_model(read_value_checkpoint(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "last.ckpt"])
def test_weights_that_may_run_code_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name}, which may run code .* model\.safetensors"):
        read_value_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_weights_cut_off_are_refused(folder, share):
    file = folder / "model.safetensors"
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut off"):
        read_value_checkpoint(folder)


LANGUAGE = {"width": 32, "depth": 2, "mlp": 48, "heads": 4, "kv_heads": 1, "head_dim": 16}
VISION = {"width": 32, "depth": 2, "mlp": 48, "heads": 2, "patch": 16}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "gemma3"}, "type is 'gemma3', expected 'vla_value': this is no value function"),
        ({"arch": "film"}, "arch is 'film', expected cross-attention or stitched"),
        ({"arch": ["stitched"]}, r"arch is \['stitched'\], expected cross-attention or stitched"),
        ({"history": 0}, "history is 0, expected a whole number from 1"),
        ({"history": 2.0}, "history is 2.0, expected a whole number"),
        ({"max_tokens": 10**6}, "max_tokens is 1000000, expected a whole number from 1 to 8192"),
        ({"image_size": 10**5}, "image_size is 100000, expected a whole number from 1 to 8192"),
        ({"max_tokens": 3}, "sizes do not fit: .*max_tokens 3 .*expected at least 1, 8"),
        ({"history_step": 61}, "sizes do not fit: history_step is 61 s"),
        ({"image_size": 15}, "sizes do not fit: image_size 15, expected a patch of 16 at least"),
        ({"attention_heads": 3}, "sizes do not fit: language: 32, expected a multiple of 3 heads"),
        ({"window": ...}, r"window is missing"),
        ({"windows": 5}, "windows is 5, expected no such key"),
        ({"vision": VISION | {"heads": 3}}, "vision: 32, expected a multiple of 3 heads"),
        ({"vision": VISION | {"pooling": 1}}, "vision.pooling is 1, expected no such key"),
        ({"vision": 7}, "vision is 7, expected an object"),
        ({"language": LANGUAGE | {"depth": 10**6}}, "language.depth is 1000000, .* to 128"),
        ({"language": LANGUAGE | {"heads": 5}}, "language: 32, expected a multiple of 5 heads"),
        ({"language": LANGUAGE | {"kv_heads": 3}}, "language: 4, expected a multiple of 3 heads"),
        ({"language": LANGUAGE | {"head_dim": 15}}, "head_dim is 15, expected it even"),
        ({"language": LANGUAGE | {"depth": 3}}, "weights do not fit the model: .* missing: lang"),
        ({"vocabulary": 511}, "1 wrong: language.embed_tokens.weight"),
        ({"image_size": 48}, "1 wrong: vision.*position_embedding.weight"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(folder, changes, words):
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        read_value_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": "stack"}, "tasks is 'stack', expected a list of texts"),
        ({"tasks": ["a", 3]}, r"tasks is \['a', 3\], expected a list of texts"),
        ({"tasks": ["a" * 2001]}, "tasks is .*, expected a list of texts of 1 to 2000"),
        ({"tasks": ...}, "tasks is None, expected a list of texts"),
        ({"shares": [0.8, 0.2]}, r"shares is \[0.8, 0.2\], expected three numbers from 0 to 1"),
        ({"shares": [1.2, -0.1, -0.1]}, "shares is .*, expected three numbers from 0 to 1"),
        ({"shares": [float("nan"), 0.5, 0.5]}, "shares is .*, expected three numbers from 0"),
        ({"shares": ["0.8", "0.1", "0.1"]}, "shares is .*, expected three numbers from 0 to 1"),
        ({"labels": []}, r"labels is \[\], expected an object"),
        ({"cameras": None}, "cameras is None, expected names of one camera at least"),
        ({"cameras": ["top", "top"]}, "cameras is .*, expected no name twice"),
        ({"fps": 0}, "fps is 0, expected a number above 0"),
        ({"split_seed": -1}, "split_seed is -1, expected a whole number from 0"),
        ({"robot": "arm"}, "robot is 'arm', expected no such key"),
    ],
)
def test_an_interface_that_cannot_be_is_refused(folder, changes, words):
    edit(folder / "value.json", **changes)
    with pytest.raises(CheckpointError, match=rf"value\.json: {words}"):
        read_value_checkpoint(folder)


def test_shares_may_be_whole_numbers(folder):
    edit(folder / "value.json", shares=[1, 0, 0])
    assert read_value_checkpoint(folder).interface.shares == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["config.json", "value.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} (is no JSON|holds a list|cannot be read)"):
        read_value_checkpoint(folder)
