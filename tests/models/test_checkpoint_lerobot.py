# SPDX-License-Identifier: Apache-2.0
"""LeRobot's checkpoints are read here and ours there; openpi's are read, too."""

import dataclasses
import json
import shutil
from dataclasses import replace

import pytest
import torch
from checkpoint_samples import NAMES, make_normalization, make_robot, make_tokenizer
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot_twin import UNUSED, lerobot_inputs, lerobot_twin
from pi05_samples import make_model, padded, random_noise, random_texts, random_views
from safetensors.torch import load_file, save_file

from vla_nodes.models import lerobot_format
from vla_nodes.models.checkpoint import load_model, load_weights, read_checkpoint, write_checkpoint
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.lerobot_format import read_config
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import Pi05Config, full, tiny
from vla_nodes.models.robot_interface import RobotInterface

TINY = tiny()
CONFIG = replace(
    TINY,
    language=replace(TINY.language, heads=8),
    expert=replace(TINY.expert, heads=8, width=48),
    image_size=48,
)
HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"
EMBEDDING = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
DEAD_HEAD = "model.paligemma_with_expert.gemma_expert.lm_head.weight"


@pytest.fixture(scope="module")
def model():
    return make_model(CONFIG)


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """LeRobot's two variants, smaller, to both sides."""
    variants = {"gemma_2b": CONFIG.language, "gemma_300m": CONFIG.expert}
    monkeypatch.setattr(lerobot_format, "VARIANTS", variants)
    monkeypatch.setattr(lerobot_format, "VISION", CONFIG.vision)
    monkeypatch.setattr(lerobot_format, "VOCABULARY", CONFIG.vocabulary)
    monkeypatch.setattr(lerobot_format, "IMAGE_SIZE", CONFIG.image_size)
    twin = lerobot_twin(make_model(CONFIG, seed=9))
    for name in UNUSED:
        torch.nn.init.normal_(twin.get_parameter(name))
    monkeypatch.setattr(modeling_pi05, "PI05Pytorch", lambda *_, **__: twin)


def lerobots_config(**changes):
    features = {"observation.state": PolicyFeature(FeatureType.STATE, (3,))}
    for camera in ("front", "wrist"):
        features[f"observation.images.{camera}"] = PolicyFeature(FeatureType.VISUAL, (3, 40, 60))
    settings = {
        "device": "cpu",
        "input_features": features,
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (3,))},
        "chunk_size": CONFIG.chunk,
        "n_action_steps": CONFIG.chunk,
        "max_state_dim": CONFIG.max_state_dim,
        "max_action_dim": CONFIG.max_action_dim,
        "num_inference_steps": 4,
        "tokenizer_max_length": 48,
        "image_resolution": (CONFIG.image_size, CONFIG.image_size),
    }
    return PI05Config(**settings | changes)


def complete(folder):
    """With what the user of a foreign checkpoint adds."""
    make_normalization().write(folder)
    make_tokenizer().write(folder / "tokenizer")
    return folder


def assert_same_chunks(ours, theirs, steps):
    views = random_views(CONFIG, absent=[(0, 1)])
    prompt, noise = padded(random_texts(CONFIG, (6, 2, 9))), random_noise(CONFIG)
    chunk = ours.sample_actions(views, prompt, noise, steps=steps)
    expected = theirs.sample_actions(*lerobot_inputs(views, prompt), noise=noise, num_steps=steps)
    torch.testing.assert_close(chunk, expected, rtol=1e-5, atol=1e-5)
    assert (chunk - noise).std() > 0.1


# --- LeRobot's --------------------------------------------------------------------------------


def test_what_lerobot_saves_loads_here_and_acts_the_same(tmp_path):
    policy = modeling_pi05.PI05Policy(lerobots_config(empty_cameras=1))
    policy.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(complete(tmp_path))
    assert checkpoint.config == replace(
        CONFIG,
        steps=4,
        max_prompt_tokens=48,
        max_subtask_tokens=Pi05Config.max_subtask_tokens,
        max_delay=0,
        pad_state=False,
    )
    assert checkpoint.robot == RobotInterface(("front", "wrist"), None, None, None)
    loaded = load_model(checkpoint)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, policy.model.state_dict()[name])
    assert_same_chunks(loaded, policy.model, steps=4)


def test_what_lerobot_has_beyond_the_model_is_reported_as_ignored(tmp_path, model):
    modeling_pi05.PI05Policy(lerobots_config()).save_pretrained(tmp_path)
    report = load_weights(make_model(CONFIG), tmp_path)
    assert report.complete
    assert {f"model.{name}" for name in report.ignored} == {HEAD, DEAD_HEAD}
    assert len(report.loaded) == len(model.state_dict())
    assert str(report).startswith(f"{len(report.loaded)} of {len(report.loaded)} tensors; 2 ign")


def test_a_shared_language_head_is_read_as_the_embedding(tmp_path):
    policy = modeling_pi05.PI05Policy(lerobots_config())
    vlm = policy.model.paligemma_with_expert.paligemma
    vlm.lm_head.weight = vlm.model.language_model.embed_tokens.weight
    policy.save_pretrained(tmp_path)
    assert EMBEDDING not in load_file(tmp_path / "model.safetensors")
    loaded = load_model(read_checkpoint(complete(tmp_path)))
    assert torch.equal(loaded.language.embed_tokens.weight, vlm.lm_head.weight)


def test_names_of_actions_are_read_where_lerobot_knows_them(tmp_path):
    modeling_pi05.PI05Policy(lerobots_config(action_feature_names=list(NAMES))).save_pretrained(
        tmp_path
    )
    assert read_checkpoint(complete(tmp_path)).robot.action_names == NAMES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_relative_actions": True}, "use_relative_actions is True, .*lerobot backend"),
        ({"action_expert_variant": "gemma_2b"}, "wrong: .*gemma_expert"),
        ({"max_action_dim": 9}, "3 wrong: action_in_proj"),
    ],
)
def test_what_cannot_run_here_is_refused(tmp_path, changes, words):
    modeling_pi05.PI05Policy(lerobots_config(**changes)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(complete(tmp_path))


def test_every_setting_of_lerobot_is_known(tmp_path):
    """A new one must be looked at: it may change what the model computes."""
    lerobots_config().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    names = {field.name for field in dataclasses.fields(PI05Config)}
    content |= {name: "set" for name in names if content[name] in (None, False, 0, [], {})}
    for refused in ("use_relative_actions", "use_peft", "action_feature_names"):
        content[refused] = None if refused == "action_feature_names" else False
    (tmp_path / "config.json").write_text(json.dumps(content))
    read_config(tmp_path)


# --- ours there -------------------------------------------------------------------------------


def write(folder, model, **changes):
    robot = changes.pop("robot", make_robot())
    config = changes.pop("config", CONFIG)
    write_checkpoint(folder, model, config, robot, make_normalization(), make_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_here_loads_in_lerobot_and_acts_the_same(model, tmp_path, capfd, dtype):
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    write(tmp_path / "a", weights)
    policy = modeling_pi05.PI05Policy.from_pretrained(tmp_path / "a")
    said = capfd.readouterr().out
    assert "All keys loaded successfully!" in said  # It prints what others would raise
    assert "Warning" not in said
    assert "Could not" not in said
    theirs = policy.model.state_dict()
    for name, tensor in weights.items():
        assert torch.equal(theirs[name], tensor.float())
    assert torch.equal(
        theirs[HEAD.removeprefix("model.")], theirs[EMBEDDING.removeprefix("model.")]
    )
    assert not theirs[DEAD_HEAD.removeprefix("model.")].any()
    assert_same_chunks(load_model(read_checkpoint(tmp_path / "a")), policy.model, steps=3)


def test_lerobot_parses_our_configuration(model, tmp_path):
    write(tmp_path / "a", model)
    config = PreTrainedConfig.from_pretrained(tmp_path / "a")
    assert isinstance(config, PI05Config)
    assert list(config.image_features) == ["observation.images.wrist", "observation.images.top"]
    assert {feature.shape for feature in config.image_features.values()} == {(3, 48, 48)}
    assert config.robot_state_feature.shape == (3,)
    assert config.action_feature.shape == (3,)
    assert config.action_feature_names == list(NAMES)
    assert config.normalization_mapping == {
        "VISUAL": NormalizationMode.IDENTITY,
        "STATE": NormalizationMode.QUANTILES,
        "ACTION": NormalizationMode.QUANTILES,
    }
    said = {
        "chunk_size": CONFIG.chunk,
        "n_action_steps": CONFIG.chunk,
        "max_state_dim": CONFIG.max_state_dim,
        "max_action_dim": CONFIG.max_action_dim,
        "num_inference_steps": CONFIG.steps,
        "tokenizer_max_length": CONFIG.max_prompt_tokens,
        "image_resolution": (48, 48),
        "min_period": CONFIG.min_period,
        "max_period": CONFIG.max_period,
        "dtype": "float32",
        "use_relative_actions": False,
    }
    assert {name: getattr(config, name) for name in said} == said


def test_lerobot_refuses_sizes_that_it_cannot_build(tmp_path):
    """Of a variant it knows it would go on with random weights, and only print a warning."""
    other = replace(CONFIG, language=replace(CONFIG.language, width=16))
    write(tmp_path / "a", make_model(other), config=other)
    assert DEAD_HEAD not in load_file(tmp_path / "a/model.safetensors")
    with pytest.raises(Exception, match="PI05Config") as caught:
        modeling_pi05.PI05Policy.from_pretrained(tmp_path / "a")
    assert "Invalid paligemma_variant: other" in str(caught.value.__cause__)


# --- openpi's ---------------------------------------------------------------------------------


@pytest.fixture
def openpi(model, tmp_path):
    """As openpi's converter saves it: without LeRobot's prefix, and its own ``config.json``."""
    tensors = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    tensors[HEAD.removeprefix("model.")] = tensors.pop(EMBEDDING.removeprefix("model."))
    tensors[DEAD_HEAD.removeprefix("model.")] = torch.zeros(512, 48)
    tensors["state_proj.weight"] = torch.zeros(48, 8)
    for part in ("in.weight", "in.bias", "out.weight", "out.bias"):
        tensors[f"action_time_mlp_{part}"] = tensors.pop(f"time_mlp_{part}")
    save_file(tensors, tmp_path / "model.safetensors")
    about = {"action_dim": 8, "action_horizon": 8, "precision": "bfloat16"}
    about |= {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    statistics = {"mean": [0.1, 0.2], "std": [1.0, 1.0], "q01": [-1.0, -2.0], "q99": [1.0, 2.0]}
    (tmp_path / "assets/robot").mkdir(parents=True)
    (tmp_path / "assets/robot/norm_stats.json").write_text(
        json.dumps({"norm_stats": {"state": statistics, "actions": statistics}})
    )
    make_tokenizer().write(tmp_path / "tokenizer")
    return tmp_path


def test_openpis_converted_checkpoints_load(model, openpi):
    checkpoint = read_checkpoint(openpi)
    assert checkpoint.robot is None
    assert checkpoint.config == replace(
        CONFIG, max_prompt_tokens=200, max_subtask_tokens=32, max_delay=0, pad_state=False
    )
    assert checkpoint.normalization.action.low == (-1.0, -2.0)
    for name, tensor in load_model(checkpoint).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].bfloat16().float())
    report = load_weights(make_model(CONFIG), openpi)
    assert len(report.aliased) == 5
    assert len(report.ignored) == 2


def test_openpis_checkpoint_without_a_tokenizer_says_which_to_add(openpi):
    shutil.rmtree(openpi / "tokenizer")
    with pytest.raises(CheckpointError, match="google/paligemma-3b-pt-224"):
        read_checkpoint(openpi)


def test_openpis_older_models_are_refused(openpi):
    tensors = load_file(openpi / "model.safetensors")
    old = {name: tensor for name, tensor in tensors.items() if ".dense." not in name}
    old["paligemma_with_expert.gemma_expert.model.norm.weight"] = torch.zeros(48)
    save_file(old, openpi / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: .*norm\.dense.* 1 unexpected"):
        read_checkpoint(openpi)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"paligemma_variant": "gemma_2b_lora"}, "paligemma_variant is 'gemma_2b_lora'"),
        ({"action_dim": None}, "action_dim is None"),
        ({"action_horizon": "50"}, "action_horizon is '50'"),
        ({"novelty": 1}, "novelty is 1, expected no such"),
    ],
)
def test_faults_of_openpis_configuration_are_named(openpi, changes, words):
    content = json.loads((openpi / "config.json").read_text())
    (openpi / "config.json").write_text(json.dumps(content | changes))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(openpi)


def test_the_published_size_is_lerobots(monkeypatch):
    monkeypatch.undo()
    assert lerobot_format.is_lerobots(full())
    assert not lerobot_format.is_lerobots(tiny())
    with torch.device("meta"):
        ours = Pi05(full()).state_dict()
        theirs = modeling_pi05.PI05Pytorch(PI05Config(device="cpu")).state_dict()
    dead = DEAD_HEAD.removeprefix("model.")
    assert theirs[dead].shape == (full().vocabulary, full().expert.width)
    assert {name: theirs[name].shape for name in ours} == {n: t.shape for n, t in ours.items()}
    assert theirs.keys() - ours.keys() == {dead, HEAD.removeprefix("model.")}
