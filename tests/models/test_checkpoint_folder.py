# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written and read, and what is said of those that cannot be used."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from checkpoint_samples import NAMES, make_normalization, make_robot, make_tokenizer
from pi05_samples import (
    make_model,
    padded,
    random_batch,
    random_noise,
    random_texts,
    random_views,
)
from safetensors.torch import load_file, save_file

from vla_nodes.models import checkpoint as checkpoints
from vla_nodes.models import checkpoint_folder, weights
from vla_nodes.models.checkpoint import (
    find_checkpoint,
    load_model,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import tiny
from vla_nodes.models.robot_interface import RobotInterface
from vla_nodes.models.scaling import Scaling

VIEWS = "observation.images."
EMBEDDING = "model.paligemma_with_expert.paligemma.lm_head.weight"


def write(folder, model, **changes):
    parts = {
        "config": tiny(),
        "robot": make_robot(),
        "normalization": make_normalization(),
        "tokenizer": make_tokenizer(),
    }
    write_checkpoint(folder, model, **parts | changes)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "checkpoint"
    write(folder, model)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A checkpoint to damage."""
    return shutil.copytree(written, tmp_path / "checkpoint")


def edit(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder):
    """Splits the weights into two files, as Hugging Face's libraries do."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for number in range(2):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        keys = sorted(tensors)[number::2]
        save_file({key: tensors[key] for key in keys}, folder / file)
        places |= dict.fromkeys(keys, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def assert_same_weights(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


# --- writing and reading ----------------------------------------------------------------------


def test_what_is_written_is_read_bit_by_bit(model, written):
    checkpoint = read_checkpoint(written)
    loaded = load_model(checkpoint)
    assert checkpoint.folder == written
    assert checkpoint.config == tiny()
    assert checkpoint.robot == make_robot()
    assert checkpoint.normalization == make_normalization()
    assert checkpoint.tokenizer.encode("Task: a") == make_tokenizer().encode("Task: a")
    assert_same_weights(loaded, model)
    assert not loaded.training
    views, noise = random_views(tiny()), random_noise(tiny())
    prompt = padded(random_texts(tiny(), (3, 5, 4)))
    ours, theirs = (m.sample_actions(views, prompt, noise) for m in (loaded, model))
    assert torch.equal(ours, theirs)


def test_every_setting_of_the_model_survives(model, tmp_path):
    config = replace(
        *(tiny(),),
        steps=7,
        max_prompt_tokens=33,
        max_subtask_tokens=5,
        max_delay=0,
        pad_state=False,
        min_period=0.01,
        max_period=2.5,
        max_state_dim=5,
        chunk=6,
    )
    write(tmp_path / "a", model, config=config)
    assert read_checkpoint(tmp_path / "a").config == config


@pytest.mark.parametrize(
    "robot",
    [None, RobotInterface((), None, None, None), replace(make_robot(), cameras=("a/b", "ö"))],
)
def test_what_is_not_known_of_the_robot_stays_unknown(model, tmp_path, robot):
    write(tmp_path / "a", model, robot=robot)
    assert read_checkpoint(tmp_path / "a").robot == robot


def test_a_state_dict_in_bfloat16_is_stored_so(model, tmp_path):
    halves = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    write(tmp_path / "a", halves)
    stored = load_file(tmp_path / "a/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "a/config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_model(read_checkpoint(tmp_path / "a"))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, halves[name].float())


def test_what_is_computed_in_float32_is_loaded_so(written, model):
    loaded = load_model(read_checkpoint(written), torch.bfloat16)
    kept = {n for n, p in loaded.named_parameters() if p.dtype == torch.float32}
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].to(tensor.dtype))
    stacks = ("paligemma.model.language_model.norm.weight", "gemma_expert.model.norm.dense.bias")
    assert {f"paligemma_with_expert.{name}" for name in stacks} < kept
    assert {"action_out_proj.weight", "time_mlp_in.bias"} < kept
    assert "action_in_proj.weight" not in kept
    prompt, noise = padded(random_texts(tiny(), (3, 5, 4))), random_noise(tiny())
    ours = loaded.sample_actions(random_views(tiny()), prompt, noise)
    exact = model.sample_actions(random_views(tiny()), prompt, noise)
    assert torch.cosine_similarity(ours.flatten(1), exact.flatten(1)).min() > 0.999
    given = {"noise": noise, "times": torch.tensor([0.1, 0.5, 0.9])}
    ours, exact = (m(random_batch(tiny()), **given).total_loss for m in (loaded, model))
    torch.testing.assert_close(ours, exact, rtol=0.01, atol=0.0)


def test_weights_in_shards_are_read(folder, model):
    shard(folder)
    assert_same_weights(load_model(read_checkpoint(folder)), model)


def test_the_loaded_model_outlives_its_file(folder, model):
    loaded = load_model(read_checkpoint(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes(file.seek(0, os.SEEK_END)))
    assert_same_weights(loaded, model)


def test_a_model_of_another_robot_begins_with_what_fits(written, model):
    other = Pi05(replace(tiny(), max_action_dim=6, vocabulary=600))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"4 wrong: action_in_proj.* and 1 more"):
        load_weights(other, written)
    report = load_weights(other, written, strict=False)
    assert len(report.wrong) == 4
    assert len(report.loaded) == len(before) - 4
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, (model.state_dict() if name in report.loaded else before)[name])


# --- writing, interrupted or refused ----------------------------------------------------------


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (checkpoints, "save_weights"),
        (checkpoint_folder, "sync"),
        (Normalization, "write"),
        (checkpoint_folder, "_exchange"),
    ],
)
def test_an_interrupted_writing_leaves_what_was_there(folder, model, monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(folder, make_model(seed=1))
    assert_same_weights(load_model(read_checkpoint(folder)), model)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_an_interrupted_writing_leaves_nothing_where_nothing_was(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "save_weights", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a/b", model)
    assert not list((tmp_path / "a").iterdir())


def test_a_checkpoint_is_replaced_as_a_whole(folder):
    (folder / "calibration.json").write_text("{}")  # of the weights that were there
    other = make_model(seed=1)
    write(folder, other)
    assert_same_weights(load_model(read_checkpoint(folder)), other)
    assert not (folder / "calibration.json").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_more_files_are_part_of_the_whole(model, tmp_path):
    write(tmp_path / "a", model, write_more=lambda place: (place / "fast").mkdir())
    assert (tmp_path / "a/fast").is_dir()
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "b", model, write_more=full_disk)
    assert not (tmp_path / "b").exists()


def test_a_folder_of_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    (tmp_path / "config.json").write_text("{}")  # as many programs have one
    with pytest.raises(CheckpointError, match=r"something else than a checkpoint .*; name another"):
        write(tmp_path, model)
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_others_may_read_the_weights(written):
    assert (written / "model.safetensors").stat().st_mode == (
        written / "config.json"
    ).stat().st_mode


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": replace(tiny(), max_action_dim=9)}, "3 wrong: action_in_proj.weight"),
        ({"config": replace(tiny(), max_state_dim=2)}, "3 elements of state, the model takes 2"),
        ({"robot": replace(make_robot(), state_names=("a", "b", "c"))}, r"state: .* robot has 3"),
        ({"robot": replace(make_robot(), action_names=NAMES[:2])}, r"action: .* robot has 2"),
    ],
)
def test_parts_that_do_not_fit_are_not_written(model, tmp_path, changes, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        write(tmp_path / "a", model, **changes)
    assert f"{tmp_path / 'a'}:" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_weights_of_a_wrapped_model_are_not_written(model, tmp_path):
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"0 of 91 .*91 missing: .*91 unexpected: module"):
        write(tmp_path / "a", wrapped)


def test_weights_that_are_no_numbers_do_not_replace_good_ones(folder, model):
    with pytest.raises(CheckpointError, match=r"not finite numbers: time_mlp_in\.bias"):
        write(folder, model.state_dict() | {"time_mlp_in.bias": torch.full((32,), torch.nan)})
    assert_same_weights(load_model(read_checkpoint(folder)), model)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_mixed_with_the_new(
    folder, model, monkeypatch
):
    checkpoint = read_checkpoint(folder)
    write(folder, make_model(seed=1))
    with pytest.raises(CheckpointError, match="was replaced while it was read; read it again"):
        load_model(checkpoint)

    def read_and_replace(place):
        found = read(place)
        if place == folder:
            monkeypatch.undo()
            write(folder, model)
        return found

    read = Normalization.read
    monkeypatch.setattr(Normalization, "read", read_and_replace)
    with pytest.raises(CheckpointError, match="was replaced while it was read; read it again"):
        read_checkpoint(folder)
    assert_same_weights(load_model(read_checkpoint(folder)), model)


def test_a_folder_of_links_is_read_as_the_hubs_cache_has_them(folder, model, tmp_path):
    for number, file in enumerate([path for path in folder.rglob("*") if path.is_file()]):
        blob = tmp_path / f"blob{number}"
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    assert_same_weights(load_model(read_checkpoint(folder)), model)


def test_an_error_is_one_line_whatever_a_file_says(folder):
    edit_weights(folder, lambda tensors: tensors.update({"a\n\x1b[2Jb": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"unexpected: a\\n\\x1b\[2Jb"):
        read_checkpoint(folder)


def test_a_tokenizer_larger_than_the_vocabulary_is_not_written(tmp_path):
    config = replace(tiny(), vocabulary=200)
    with pytest.raises(CheckpointError, match="tokenizer has 259 tokens, the model 200"):
        write(tmp_path / "a", Pi05(config), config=config)


# --- faults of weights ------------------------------------------------------------------------


def drop(tensors):
    del tensors["model.time_mlp_in.bias"]


def add(tensors):
    tensors["model.extra.weight"] = torch.zeros(2)


def twice(tensors):
    tensors["time_mlp_in.bias"] = tensors["model.time_mlp_in.bias"].clone()


def other_name(tensors):
    tensors["action_time_mlp_in.bias"] = tensors["model.time_mlp_in.bias"].clone()


def reshape(tensors):
    tensors["model.time_mlp_in.bias"] = torch.zeros(7)


def quantise(tensors):
    tensors["model.time_mlp_in.bias"] = torch.zeros(32, dtype=torch.int8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, r"90 of 91 tensors; 1 missing: time_mlp_in\.bias"),
        (add, r"91 of 91 tensors; 1 unexpected: extra\.weight"),
        (twice, r"time_mlp_in\.bias is there twice"),
        (other_name, r"1 unexpected: .*time_mlp_in\.bias"),
        (reshape, r"1 wrong: time_mlp_in\.bias is F32 \(7,\), expected .*F32.* \(32,\)"),
        (quantise, r"1 wrong: time_mlp_in\.bias is I8 \(32,\), expected .*F32.* \(32,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_they_are_read(folder, change, words):
    edit_weights(folder, change)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    edit_weights(folder, lambda tensors: tensors["model.action_in_proj.bias"].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=r"not finite numbers: action_in_proj\.bias"):
        load_model(read_checkpoint(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "last.ckpt"])
def test_weights_that_may_run_code_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name}, which may run code .* model\.safetensors"):
        read_checkpoint(folder)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_weights_cut_off_are_refused(folder, share):
    file = folder / "model.safetensors"
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut off"):
        read_checkpoint(folder)


def test_weights_cut_off_while_they_are_read_are_refused(folder, monkeypatch):
    def cut(*arguments, **options):
        found = compare(*arguments, **options)
        os.truncate(folder / "model.safetensors", 50_000)
        return found

    compare = weights.compare
    checkpoint = read_checkpoint(folder)
    monkeypatch.setattr(weights, "compare", cut)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut off"):
        load_model(checkpoint)


def test_weights_that_are_noise_are_refused(folder):
    (folder / "model.safetensors").write_bytes(bytes(range(8)) + b"no weights")
    with pytest.raises(CheckpointError, match="no safetensors file: its header would have"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "pi05.json", "normalization.json"]
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is no regular file"):
        read_checkpoint(folder)


def test_a_missing_shard_is_named(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        read_checkpoint(folder)


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/x.safetensors", "x.bin", 3, ".."])
def test_an_index_that_leaves_its_folder_is_refused(folder, place):
    shard(folder)
    index = folder / "model.safetensors.index.json"
    edit(index, weight_map=json.loads(index.read_text())["weight_map"] | {EMBEDDING: place})
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors beside it"):
        read_checkpoint(folder)


def test_an_index_that_names_other_tensors_is_refused(folder):
    shard(folder)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    del places[EMBEDDING]
    edit(index, weight_map=places)
    with pytest.raises(CheckpointError, match=rf"does not hold the tensors .*{EMBEDDING}"):
        read_checkpoint(folder)


@pytest.mark.parametrize("places", [{}, [], None, "x"])
def test_an_index_without_tensors_is_refused(folder, places):
    shard(folder)
    edit(folder / "model.safetensors.index.json", weight_map=places)
    with pytest.raises(CheckpointError, match="no weight_map"):
        read_checkpoint(folder)


# --- faults of the configuration --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "act"}, "type is 'act', expected pi05; other policies .* lerobot backend"),
        ({"use_relative_actions": True}, "use_relative_actions is True, .*lerobot backend"),
        ({"use_peft": True}, "use_peft is True"),
        ({"n_obs_steps": 2}, "n_obs_steps is 2, expected 1"),
        ({"novelty": True}, "novelty is True, expected no such setting"),
        ({"image_resolution": [32, 48]}, r"image_resolution is \[32, 48\], expected the same"),
        ({"image_resolution": 32}, "image_resolution is 32, expected a list"),
        ({"paligemma_variant": "gemma_7b"}, "paligemma_variant is 'gemma_7b', expected gemma_2b"),
        ({"paligemma_variant": 3}, "paligemma_variant is 3"),
        ({"chunk_size": 0}, "chunk_size is 0, expected a whole number from 1 to 1000"),
        ({"chunk_size": True}, "chunk_size is True"),
        ({"chunk_size": 4}, "sizes do not fit: max_delay 4, expected 0 to 3"),
        ({"num_inference_steps": 1e9}, "num_inference_steps is 1000000000.0"),
        ({"min_period": "short"}, "min_period is 'short', expected a number above 0"),
        ({"max_period": float("inf")}, "max_period is inf"),
        ({"max_period": float("nan")}, "max_period is nan"),
        ({"max_period": 10**400}, "max_period is 1000"),
        (
            {"action_feature_names": [1]},
            r"action_feature_names is \[1\], expected at most 1000 texts",
        ),
        ({"action_feature_names": ["a", "a"]}, "no name twice"),
        ({"input_features": None}, "input_features is None, expected an object"),
        ({"input_features": {"a": 1}}, r"input_features\.a is 1, expected an object"),
        (
            {"input_features": {key: {"type": "VISUAL"} for key in ("a", f"{VIEWS}a")}},
            "input_features is .* no name twice",
        ),
        ({"input_features": {VIEWS + "x" * 999: {"type": "VISUAL"}}}, "1 to 200 characters"),
        ({"input_features": {VIEWS: {"type": "VISUAL"}}}, "1 to 200 characters"),
        ({"tokenizer_max_length": 10**6}, "whole number from 1 to 8192"),
    ],
)
def test_faults_of_config_json_are_named(folder, changes, words):
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocabulary": "many"}, r"pi05\.json: vocabulary is 'many', expected a whole number"),
        ({"vision": None}, "vision is None, expected an object"),
        ({"language": {"width": 32}}, r"language\.depth is missing"),
        ({"max_delay": -1}, "max_delay is -1, expected a whole number from 0"),
        ({"pad_state": 1}, "pad_state is 1, expected true or false"),
        ({"novelty": 1}, "novelty is 1, expected no such"),
        ({"robot": []}, r"robot is \[\], expected an object"),
        ({"robot": {"state_names": None}}, r"robot\.subtasks is missing"),
    ],
)
def test_faults_of_pi05_json_are_named(folder, changes, words):
    edit(folder / "pi05.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 10**6}, r"language\.depth is 1000000, expected a whole number from 1 to 128"),
        ({"heads": 3}, "head"),
        ({"width": 33}, "wrong"),
        ({"colour": 1}, r"language\.colour is 1, expected no such"),
    ],
)
def test_absurd_sizes_are_named(folder, changes, words):
    sizes = json.loads((folder / "pi05.json").read_text())["language"]
    edit(folder / "pi05.json", language=sizes | changes)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "holds a list, expected an object"),
        (b"{", "no JSON"),
        (b"\xff", "cannot be read"),
        (b" " * (2 << 20), "too large"),
        (b'{"a":' * 100_000, "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", r"config\.json is no JSON: Exceeds the limit"),
        (b'{"a": "\\ud800"}', r"config\.json is no JSON: .*surrogates"),
    ],
)
def test_a_damaged_config_json_is_refused(folder, content, words):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "pi05.json"])
def test_a_missing_configuration_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing"):
        read_checkpoint(folder)


def test_a_missing_tokenizer_is_named_with_what_to_do(folder):
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing; copy"):
        read_checkpoint(folder)


def test_missing_statistics_are_named(folder):
    (folder / "normalization.json").unlink()
    with pytest.raises(CheckpointError, match="has no statistics"):
        read_checkpoint(folder)


def test_statistics_of_other_joints_are_named(folder):
    scaling = Scaling(("elbow", "shoulder", "gripper"), "quantile", (0.0,) * 3, (1.0,) * 3)
    Normalization(scaling, scaling).write(folder)
    with pytest.raises(CheckpointError, match=r"state: the statistics are of 3 joints .*elbow"):
        read_checkpoint(folder)


# --- where a checkpoint is --------------------------------------------------------------------


def test_offline_only_what_was_fetched_is_found(monkeypatch, tmp_path, written):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"owner/name is no folder; HF_HUB_OFFLINE is set"):
        find_checkpoint("owner/name")
    repository, commit = tmp_path / "models--owner--name", "0123456789" * 4
    shutil.copytree(written, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    assert read_checkpoint("owner/name").config == tiny()


@pytest.mark.parametrize("source", ["name", "/no/such/folder", "../a", "a/b/c", "https://a/b"])
def test_what_is_no_repository_is_not_asked_for(monkeypatch, source):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(CheckpointError, match="is no folder, nor OWNER/NAME"):
        find_checkpoint(source)


def test_a_folder_that_is_misspelt_is_not_asked_for(monkeypatch, written):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.chdir(written.parent.parent)
    with pytest.raises(CheckpointError, match="is no folder, nor OWNER/NAME"):
        find_checkpoint(f"{written.parent.name}/last")


def test_an_empty_name_is_not_this_folder():
    with pytest.raises(CheckpointError, match="no checkpoint is named"):
        find_checkpoint("")


def test_a_file_is_no_checkpoint(written):
    with pytest.raises(CheckpointError, match="is a file, expected the folder"):
        find_checkpoint(written / "config.json")


def test_of_a_repository_only_files_of_a_policy_are_fetched(monkeypatch, written):
    asked = {}

    def snapshot_download(repository, *, allow_patterns, local_files_only):
        asked[repository] = allow_patterns, local_files_only
        return str(written)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert read_checkpoint("owner/name").config == tiny()
    assert asked == {"owner/name": (["*.json", "*.safetensors", "*tokenizer.model"], False)}


def test_a_repository_that_is_not_there_is_named(monkeypatch):
    def snapshot_download(*_, **__):
        raise OSError("401 " + "x" * 10_000)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        CheckpointError, match="owner/name is no folder; the Hub says: 401"
    ) as caught:
        find_checkpoint("owner/name")
    assert len(str(caught.value)) < 400
