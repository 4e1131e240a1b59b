# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import Contract, load_contract
from vla_nodes.inference import PolicyError
from vla_nodes.inference.lerobot_policy import LeRobotPolicy
from vla_nodes.observation.observation import Observation

NORMALIZER = "policy_preprocessor_step_3_normalizer_processor.safetensors"
UNNORMALIZER = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(find_contract("sim_arm"))


@pytest.fixture
def folder(act_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(act_folder, tmp_path / "act")


def make(contract: Contract, folder: Path) -> LeRobotPolicy:
    return LeRobotPolicy(contract, str(folder), "cpu")


def observe(contract: Contract, seed: int = 0, stamp: int = 0) -> Observation:
    random = np.random.default_rng(seed)
    images = {
        camera.name: random.integers(0, 256, (*camera.shape, 3), dtype=np.uint8)
        for camera in contract.cameras
    }
    for picture in images.values():
        picture.setflags(write=False)
    state = random.normal(0.0, 0.3, len(contract.state_names))
    return Observation(stamp, images, state, {}, {}, {})


def lerobots_own(folder: Path) -> tuple:
    """Policy and processors, made as LeRobot's own scripts make them."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    return policy, *make_pre_post_processors(config, pretrained_path=str(folder))


def as_lerobot_takes_it(observation: Observation, task: str) -> dict:
    from lerobot.policies.utils import prepare_observation_for_inference

    arrays = {f"observation.images.{k}": v.copy() for k, v in observation.images.items()}
    arrays["observation.state"] = observation.state.astype(np.float32)
    return prepare_observation_for_inference(arrays, torch.device("cpu"), task)


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_tensors(file: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(file) | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, file)


def test_the_chunk_is_lerobots_own(contract: Contract, act_folder: Path) -> None:
    policy, before, after = lerobots_own(act_folder)
    ours = make(contract, act_folder)
    for seed in range(3):
        observation = observe(contract, seed)
        batch = before(as_lerobot_takes_it(observation, "clear the table"))
        expected = after(policy.predict_action_chunk(batch))[0].numpy()
        plan = ours.act(observation, "clear the table")
        assert plan.actions.dtype == np.float64
        np.testing.assert_allclose(plan.actions, expected, rtol=0, atol=1e-6)


def test_a_folder_of_links_as_the_hub_keeps_it_is_read(
    contract: Contract, act_folder: Path, tmp_path: Path
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    shutil.copytree(act_folder, blobs)
    for number, file in enumerate(sorted(blobs.iterdir())):
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
        file.rename(blobs / str(number))
    plans = [make(contract, folder).act(observe(contract), "") for folder in (snapshot, act_folder)]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)


def test_the_task_is_the_subtask(contract: Contract, act_folder: Path) -> None:
    policy = make(contract, act_folder)
    assert policy.plan_subtask(observe(contract), "clear the table") == "clear the table"


def test_a_camera_that_the_policy_does_not_look_at_changes_nothing(
    contract: Contract, act_folder: Path
) -> None:
    more = replace(contract, cameras=(*contract.cameras, replace(contract.cameras[0], name="top")))
    observation = observe(more)
    seen = {c.name: observation.images[c.name] for c in contract.cameras}
    plans = [
        make(more, act_folder).act(observation, ""),
        make(contract, act_folder).act(replace(observation, images=seen), ""),
    ]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)


def test_cameras_are_found_under_the_names_that_the_processor_gives_them(
    contract: Contract, folder: Path
) -> None:
    expected = make(contract, folder).act(observe(contract), "").actions
    key = "observation.images.front"

    def rename(document: dict) -> None:
        document["steps"][0]["config"]["rename_map"] = {"observation.images.camera": key}

    edit(folder / "policy_preprocessor.json", rename)
    front, wrist = contract.cameras
    renamed = replace(contract, cameras=(replace(front, name="camera"), wrist))
    observation = observe(contract)
    images = {"camera": observation.images["front"], "wrist": observation.images["wrist"]}
    plan = make(renamed, folder).act(replace(observation, images=images), "")
    np.testing.assert_array_equal(plan.actions, expected)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is no JSON"),
    "another kind": (
        lambda f: edit(f / "config.json", lambda c: c.update(type="tdmpc")),
        "type is 'tdmpc', expected one of act, diffusion",
    ),
    "an adapter": (
        lambda f: edit(f / "config.json", lambda c: c.update(use_peft=True)),
        "weights of an adapter",
    ),
    "an option that LeRobot does not know": (
        lambda f: edit(f / "config.json", lambda c: c.update(wheels=4)),
        "LeRobot cannot read it",
    ),
    "values that LeRobot refuses": (
        lambda f: edit(f / "config.json", lambda c: c.update(n_heads=5)),
        "LeRobot cannot build it",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "model.safetensors is missing",
    ),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin: such a file can run code",
    ),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1000]
        ),
        "model.safetensors cannot be read",
    ),
    "no safetensors at all": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04 pickle"),
        "model.safetensors cannot be read",
    ),
    "weights of another size": (
        lambda f: edit(f / "config.json", lambda c: c.update(dim_model=64)),
        "of another shape (",
    ),
    "a tensor too few": (
        lambda f: edit_tensors(f / "model.safetensors", **{"model.action_head.bias": None}),
        "1 tensors missing (model.action_head.bias)",
    ),
    "a tensor too many": (
        lambda f: edit_tensors(f / "model.safetensors", stray=torch.zeros(2)),
        "1 tensors unknown (stray)",
    ),
    "a folder of LeRobot before 0.4": (
        lambda f: (f / "policy_preprocessor.json").unlink(),
        "migrate_policy_normalization",
    ),
    "a step of foreign code": (
        lambda f: edit(
            f / "policy_preprocessor.json",
            lambda c: c["steps"].append({"class": "os.system", "config": {"command": "true"}}),
        ),
        "a step 'os.system'; only LeRobot's own are run",
    ),
    "a state file elsewhere": (
        lambda f: edit(
            f / "policy_preprocessor.json",
            lambda c: c["steps"][3].update(state_file="../../x.safetensors"),
        ),
        "names '../../x.safetensors', expected a file beside it",
    ),
    "no statistics": (lambda f: (f / NORMALIZER).unlink(), f"{NORMALIZER} is missing"),
    "no statistics of the action": (
        lambda f: edit_tensors(f / UNNORMALIZER, **{"action.std": None}),
        "the unnormalizer_processor has no mean and std of action",
    ),
    "no statistics named": (
        lambda f: edit(f / "policy_preprocessor.json", lambda c: c["steps"][3].pop("state_file")),
        "the normalizer_processor has no mean and std of observation.images.front",
    ),
    "statistics of fewer joints": (
        lambda f: edit_tensors(f / UNNORMALIZER, **{"action.std": torch.ones(5)}),
        "the statistics of action have shapes (6,) and (5,), expected (6,)",
    ),
    "zero spread": (
        lambda f: edit_tensors(
            f / NORMALIZER,
            **{"observation.state.std": torch.tensor([1.0, 1, 0, 1, 1, 1])},
        ),
        "observation.state: joint 'elbow.position' has no spread",
    ),
    "not finite": (
        lambda f: edit_tensors(f / UNNORMALIZER, **{"action.std": torch.full((6,), torch.nan)}),
        "action: joint 'pan' has no spread",
    ),
    "a tokenizer that would be fetched": (
        lambda f: edit(
            f / "policy_preprocessor.json",
            lambda c: c["steps"].append(
                {
                    "registry_name": "tokenizer_processor",
                    "config": {"tokenizer_name": "nobody/nothing"},
                }
            ),
        ),
        "tokenizer 'nobody/nothing' is not on this machine, and nothing is fetched",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_named_in_one_line(contract: Contract, folder: Path, fault: str) -> None:
    spoil, words = FAULTS[fault]
    spoil(folder)
    with pytest.raises(PolicyError) as error:
        make(contract, folder)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_other_robots_are_refused(contract: Contract, act_folder: Path) -> None:
    front, wrist = contract.cameras
    (arm,) = contract.states
    (action,) = contract.actions
    fewer = replace(
        action,
        joints=action.joints[:5],
        limits=action.limits[:5],
        grippers=action.grippers[:5],
    )
    others = {
        "observation.images.wrist, which 'sim_arm' does not have; its cameras: front": replace(
            contract, cameras=(front,)
        ),
        "camera wrist gives pictures of 64 x 48 px, the policy was trained on 96 x 96": replace(
            contract, cameras=(front, replace(wrist, width=64, height=48))
        ),
        "camera wrist gives depth": replace(
            contract, cameras=(front, replace(wrist, encoding="16UC1"))
        ),
        "observation.state has shape (6,), 'sim_arm' has 12: pan.position": replace(
            contract, states=(replace(arm, fields=("position", "velocity")),)
        ),
        "action has shape (6,), 'sim_arm' has 5: pan, lift": replace(contract, actions=(fewer,)),
    }
    for words, other in others.items():
        with pytest.raises(PolicyError) as error:
            make(other, act_folder)
        assert words in str(error.value)


def test_joints_in_another_order_are_refused_where_the_folder_names_them(
    contract: Contract, folder: Path
) -> None:
    names = [f"{name}.pos" for name in contract.action_names]
    edit(folder / "config.json", lambda c: c.update(action_feature_names=names[::-1]))
    with pytest.raises(PolicyError, match=r"joints are gripper.pos, roll.pos, .*pan, lift"):
        make(contract, folder)


def test_a_device_that_is_not_there_is_refused(contract: Contract, act_folder: Path) -> None:
    with pytest.raises(PolicyError, match="device 'cuda:99' cannot be used"):
        LeRobotPolicy(contract, str(act_folder), "cuda:99")


def test_actions_that_are_not_finite_are_a_failure(contract: Contract, folder: Path) -> None:
    edit_tensors(
        folder / "model.safetensors", **{"model.action_head.bias": torch.full((6,), torch.inf)}
    )
    with pytest.raises(PolicyError, match="expected finite"):
        make(contract, folder)


def diffusion_folder(folder: Path) -> Path:
    """A small random diffusion policy with two observations, as LeRobot saves one."""
    pytest.importorskip("diffusers")
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    config = DiffusionConfig(
        input_features={
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)),
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        device="cpu",
        n_obs_steps=2,
        pretrained_backbone_weights=None,
        down_dims=(16, 32),
        diffusion_step_embed_dim=16,
        spatial_softmax_num_keypoints=4,
        num_inference_steps=2,
    )
    ones = torch.ones(6)
    picture = torch.full((3, 1, 1), 0.5)
    statistics = {
        "observation.images.front": {"mean": picture, "std": picture},
        "observation.state": {"min": -ones, "max": ones},
        "action": {"min": -ones, "max": ones},
    }
    torch.manual_seed(0)
    DiffusionPolicy(config).save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(folder)
    return folder


def test_a_policy_with_a_history_sees_what_lerobot_would_show_it(
    contract: Contract, tmp_path: Path
) -> None:
    folder = diffusion_folder(tmp_path / "diffusion")
    ours = make(contract, folder)
    theirs, before, after = lerobots_own(folder)
    frame = round(contract.dt * 1e9)
    observations = [observe(contract, seed, stamp=seed * frame + 10**18) for seed in range(3)]
    ours.reset()
    torch.manual_seed(0)
    mine = [ours.act(observation, "").actions for observation in observations]
    theirs.reset()
    torch.manual_seed(0)
    for actions, observation in zip(mine, observations, strict=True):
        theirs._queues["action"].clear()  # so that every observation gets a chunk
        first = after(theirs.select_action(before(as_lerobot_takes_it(observation, ""))))
        rest = [after(action) for action in theirs._queues["action"]]
        np.testing.assert_allclose(actions, torch.cat([first, *rest]).numpy(), atol=1e-6)


def test_a_history_with_a_gap_is_filled_with_the_newest(contract: Contract, tmp_path: Path) -> None:
    policy = make(contract, diffusion_folder(tmp_path / "diffusion"))
    newest = observe(contract, seed=1, stamp=10**18 + 10**9)
    policy.reset()
    policy.act(observe(contract, seed=0, stamp=10**18), "")
    torch.manual_seed(7)
    with_gap = policy.act(newest, "").actions
    policy.reset()
    torch.manual_seed(7)
    np.testing.assert_array_equal(with_gap, policy.act(newest, "").actions)


def test_the_same_noise_is_drawn_after_every_reset(contract: Contract, tmp_path: Path) -> None:
    policy = make(contract, diffusion_folder(tmp_path / "diffusion"))
    chunks = []
    for _ in range(2):
        policy.reset()
        chunks.append(policy.act(observe(contract, stamp=10**18), "").actions)
    np.testing.assert_array_equal(chunks[0], chunks[1])
