# SPDX-License-Identifier: Apache-2.0
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import Contract, load_contract
from vla_nodes.inference import PolicyError, PolicyOptions
from vla_nodes.inference.pi05_policy import Pi05Policy
from vla_nodes.models.checkpoint import load_model, read_checkpoint, write_checkpoint
from vla_nodes.models.pi05_batch import Tokens, Views
from vla_nodes.observation.observation import Observation

TASK = "clear the table"
START = 10**18  # ns


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(find_contract("sim_arm"))


@pytest.fixture
def changed(pi05_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the checkpoint with another robot, other sizes that no weight depends on, or
    other weights."""

    def write(spoil: Callable | None = None, config: dict | None = None, **robot: Any) -> Path:
        old = read_checkpoint(pi05_folder)
        model = load_model(old)
        if spoil is not None:
            with torch.no_grad():
                spoil(model)
        config = replace(old.config, **(config or {}))
        robot = replace(old.robot, **robot)
        write_checkpoint(tmp_path / "other", model, config, robot, old.normalization, old.tokenizer)
        return tmp_path / "other"

    return write


class Calls:
    """Records what an engine is asked, and passes it on."""

    def __init__(self, policy: Pi05Policy) -> None:
        self._engine = policy._engine
        self.names: list[str] = []
        self.arguments: list[dict] = []
        policy._engine = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.names.append(name)
            self.arguments.append(kwargs)
            return getattr(self._engine, name)(*args, **kwargs)

        return call


def make(contract: Contract, folder: Path, **options: Any) -> Pi05Policy:
    return Pi05Policy(contract, str(folder), "cpu", PolicyOptions(**options))


def observe(contract: Contract, seed: int = 0, stamp: int = START, age: float = 0.0) -> Observation:
    random = np.random.default_rng(seed)
    images = {
        camera.name: random.integers(0, 256, (*camera.shape, 3), dtype=np.uint8)
        for camera in contract.cameras
    }
    state = random.normal([0.0, 1.5, -1.7, -1.5, 0.0, 0.02], 0.1)
    return Observation(stamp, images, state, {}, {contract.reference: age}, {})


def by_hand(folder: Path, observation: Observation, text: str) -> tuple:
    """Model, pictures and prompt, made without the policy."""
    checkpoint = read_checkpoint(folder)
    scaling = checkpoint.normalization.state
    low, high = np.array(scaling.low), np.array(scaling.high)
    scaled = 2 * (observation.state - low) / (high - low) - 1
    bins = np.digitize(np.clip(scaled, -1, 1), np.linspace(-1, 1, 257)[:-1]) - 1
    prompt = text.format(state=" ".join(map(str, bins)))
    ids = torch.tensor([[checkpoint.tokenizer.bos_id, *checkpoint.tokenizer.encode(prompt)]])
    pictures = [
        torch.nn.functional.interpolate(
            torch.tensor(observation.images[name]).permute(2, 0, 1)[None] / 255.0,
            (checkpoint.config.image_size,) * 2,
            mode="bilinear",
        )
        * 2
        - 1
        for name in checkpoint.robot.cameras
    ]
    pixels = torch.cat(pictures)[None]
    views = Views(pixels, torch.ones(1, pixels.shape[1], dtype=torch.bool))
    return load_model(checkpoint), views, Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def test_the_chunk_is_the_plain_models_in_the_robots_units(
    contract: Contract, pi05_folder: Path
) -> None:
    policy, observation = make(contract, pi05_folder), observe(contract)
    model, views, prompt = by_hand(
        pi05_folder, observation, "Task: grasp it, State: {state};\nAction: "
    )
    state = policy._engine._inputs.generator.get_state()
    plan = policy.act(observation, "grasp_it\n")
    generator = torch.Generator().set_state(state)
    noise = torch.randn(1, model.config.chunk, model.config.max_action_dim, generator=generator)
    with torch.no_grad():
        drawn = model.sample_actions(views, prompt, noise)[0, :, :6].double().numpy()
    scaling = read_checkpoint(pi05_folder).normalization.action
    low, high = np.array(scaling.low), np.array(scaling.high)
    np.testing.assert_allclose(plan.actions, (drawn + 1) / 2 * (high - low) + low, atol=1e-5)
    assert plan.actions.shape == (20, 6)
    assert plan.actions.dtype == np.float64
    assert math.isnan(plan.energy)


def test_a_folder_of_links_as_the_hub_keeps_it_is_read(
    contract: Contract, pi05_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(f for f in sorted(pi05_folder.rglob("*")) if f.is_file()):
        shutil.copy(file, tmp_path / "blobs" / str(number))
        link = tmp_path / "snapshot" / file.relative_to(pi05_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "blobs" / str(number))
    plans = [
        make(contract, folder).act(observe(contract), "wave")
        for folder in (tmp_path / "snapshot", pi05_folder)
    ]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)


def test_the_most_probable_known_subtask_is_chosen(contract: Contract, pi05_folder: Path) -> None:
    checkpoint = read_checkpoint(pi05_folder)
    policy = make(contract, pi05_folder)
    for seed in range(3):
        observation = observe(contract, seed)
        model, views, prompt = by_hand(
            pi05_folder, observation, "Task: " + TASK + ", State: {state};\nSubtask: "
        )
        scores = []
        for text in checkpoint.robot.subtasks:
            row = [*checkpoint.tokenizer.encode(text), checkpoint.tokenizer.eos_id]
            score = 0.0
            for i, token in enumerate(row):
                before = torch.tensor([row[:i]], dtype=torch.long)
                with torch.no_grad():
                    logits = model.next_token(
                        views, prompt, Tokens(before, torch.ones_like(before, dtype=torch.bool))
                    )
                score += float(log_softmax(logits[0], -1)[token])
            scores.append(score)
        expected = checkpoint.robot.subtasks[int(np.argmax(scores))]
        assert policy.plan_subtask(observation, TASK) == expected


def test_the_contracts_subtasks_go_before_the_checkpoints(
    contract: Contract, pi05_folder: Path
) -> None:
    policy = make(replace(contract, subtasks=("wave",)), pi05_folder)
    assert policy.plan_subtask(observe(contract), TASK) == "wave"


def test_where_no_subtask_is_known_the_task_is_the_subtask(
    contract: Contract, changed: Callable
) -> None:
    assert make(contract, changed(subtasks=())).plan_subtask(observe(contract), TASK) == TASK


def test_free_text_is_one_printable_line_of_bounded_length(
    contract: Contract, pi05_folder: Path
) -> None:
    policy = make(contract, pi05_folder, planner="free")
    text = policy.plan_subtask(observe(contract), TASK)  # noise, of a model that learned nothing
    assert text.isprintable()
    assert len(text) <= 200
    tokenizer = policy._tokenizer

    class Written:
        def encode(self, _: object) -> torch.Tensor:
            return torch.zeros(1)

        def plan(self, *_: object) -> list[int]:
            return tokenizer.encode(" grasp\x00 \x1b[2Jit \nAction: " + 300 * "x")

    policy._engine = Written()  # type: ignore[assignment]
    policy.reset()
    assert policy.plan_subtask(observe(contract), TASK) == "grasp [2Jit"


def test_pictures_are_encoded_once_for_planner_and_actor(
    contract: Contract, pi05_folder: Path
) -> None:
    policy = make(contract, pi05_folder)
    calls = Calls(policy)
    for seed in range(2):
        observation = observe(contract, seed, START + seed)
        policy.act(observation, policy.plan_subtask(observation, TASK))
    assert calls.names == ["encode", "score", "act"] * 2


def test_good_actions_are_asked_for_where_the_model_knows_them(
    contract: Contract, changed: Callable
) -> None:
    folder = changed(advantage=True)
    asked: list[tuple] = []
    for guidance in (1.0, 2.0):
        policy = make(contract, folder, guidance=guidance)
        engine = policy._engine

        def act(features: Any, prompt: Any, policy=policy, engine=engine, **kwargs: Any) -> Any:
            other = kwargs["unconditional"]
            decode = policy._tokenizer.decode
            asked.append((decode(prompt), other and decode(other), kwargs["guidance"]))
            return type(engine).act(engine, features, prompt, **kwargs)

        engine.act = act  # type: ignore[method-assign]
        policy.act(observe(contract), "wave")
    (plain, none, _), (positive, unconditional, weight) = asked
    assert plain == positive
    assert plain.startswith("Task: wave\nAdvantage: positive, State: ")
    assert none is None
    assert unconditional == positive.replace("\nAdvantage: positive", "")
    assert weight == 2.0


def chunks(
    policy: Pi05Policy, contract: Contract, passed: float, seconds: float, slowest: float = 0.0
) -> list:
    """Two chunks. The second is for an observation that is later by ``passed``, ``seconds`` old,
    after a chunk that has taken ``slowest``."""
    later = START + round(passed * 1e9)
    first = policy.act(observe(contract), "wave").actions
    policy._durations.clear()
    policy._durations.append(slowest)
    return [first, policy.act(observe(contract, 1, later, age=seconds), "wave").actions]


@pytest.mark.parametrize(("passed", "seconds", "count"), [(0.1, 0.12, 3), (0.13, 0.12, 3)])
def test_a_chunk_begins_as_the_last_one_goes_on(
    contract: Contract, pi05_folder: Path, passed: float, seconds: float, count: int
) -> None:
    policy = make(contract, pi05_folder, real_time="trained")
    old, new = chunks(policy, contract, passed, seconds)
    dt = contract.dt
    old_due = (np.arange(len(old)) + 1) * dt
    new_due = passed + (np.arange(len(new)) + 1) * dt
    expected = np.stack([np.interp(new_due[:count], old_due, joint) for joint in old.T], axis=1)
    np.testing.assert_allclose(new[:count], expected, atol=1e-6)
    policy.reset()
    afresh = policy.act(observe(contract, 2, START + 2 * 10**9), "wave").actions
    assert np.abs(afresh[:count] - expected).max() > 1e-3


def test_no_more_is_decided_than_the_model_was_trained_with(
    contract: Contract, pi05_folder: Path
) -> None:
    policy = make(contract, pi05_folder, real_time="trained")
    calls = Calls(policy)
    chunks(policy, contract, passed=0.1, seconds=0.6)
    assert calls.arguments[-1]["delay"] == read_checkpoint(pi05_folder).config.max_delay == 4
    assert len(calls.arguments[-1]["decided"]) == 18


def test_guidance_gets_the_whole_of_what_is_left(contract: Contract, pi05_folder: Path) -> None:
    policy = make(contract, pi05_folder, real_time="guided")
    calls = Calls(policy)
    chunks(policy, contract, passed=0.5, seconds=0.28)
    assert calls.arguments[-1]["delay"] == 6
    assert calls.arguments[-1]["decided"].shape == (10, 8)
    chunks(policy, contract, passed=0.5, seconds=0.08, slowest=0.14)
    assert calls.arguments[-1]["delay"] == 5
    chunks(policy, contract, passed=0.9, seconds=0.3)
    assert calls.arguments[-1]["delay"] == len(calls.arguments[-1]["decided"]) == 2


@pytest.mark.parametrize("passed", [1.0, 5.0, -1.0])
def test_nothing_is_decided_by_a_chunk_that_has_run_out_or_lies_ahead(
    contract: Contract, pi05_folder: Path, passed: float
) -> None:
    policy = make(contract, pi05_folder, real_time="trained")
    calls = Calls(policy)
    chunks(policy, contract, passed, seconds=0.1)
    assert calls.arguments[-1]["decided"] is None


def test_a_task_that_is_too_long_is_named_with_its_length(
    contract: Contract, pi05_folder: Path
) -> None:
    policy = make(contract, pi05_folder)
    with pytest.raises(PolicyError, match=r"has \d\d\d tokens, the model takes 100"):
        policy.plan_subtask(observe(contract), 150 * "x")
    with pytest.raises(PolicyError, match="30"):
        policy.act(observe(contract), 30_000 * "x")


def test_actions_that_are_not_finite_are_a_failure(contract: Contract, changed: Callable) -> None:
    def spoil(model: Any) -> None:
        model.action_out_proj.weight.fill_(3e38)

    with pytest.raises(PolicyError, match="not finite"):
        make(contract, changed(spoil))


def test_a_checkpoint_for_another_robot_is_refused_in_one_line(
    contract: Contract, changed: Callable
) -> None:
    names = contract.action_names
    front, _ = contract.cameras
    cases = [
        (contract, {"cameras": ("front", "top")}, "camera 'top', which 'sim_arm' does not have"),
        (replace(contract, cameras=(front,)), {}, "camera 'wrist', which 'sim_arm'"),
        (replace(contract, fps=30.0), {}, "gives 20 actions a second, 'sim_arm' takes 30"),
        (
            replace(contract, actions=(replace(contract.actions[0], prefix="left_"),)),
            {},
            f"joints are {', '.join(names)}; those of 'sim_arm' are left_pan",
        ),
        (
            replace(contract, states=(replace(contract.states[0], joints=names[::-1]),)),
            {},
            "those of 'sim_arm' are gripper.position, roll.position",
        ),
        (replace(contract, subtasks=("x" * 60,)), {}, "has 60 tokens, expected 1 to 39"),
    ]
    for robot, change, words in cases:
        with pytest.raises(PolicyError) as error:
            make(robot, changed(**change))
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_a_checkpoint_that_names_no_robot_runs_on_one_with_as_many_joints(
    contract: Contract, changed: Callable
) -> None:
    folder = changed(state_names=None, action_names=None, fps=None)
    assert make(contract, folder).act(observe(contract), TASK).actions.shape == (20, 6)


def test_options_that_the_model_was_not_trained_for_are_refused(
    contract: Contract, changed: Callable
) -> None:
    folder = changed(config={"max_delay": 0})
    for options, words in (
        ({"guidance": 2.0}, "guidance is 2, but the policy was not trained with advantages"),
        ({"real_time": "trained"}, "real_time is 'trained', but the policy was not trained so"),
    ):
        with pytest.raises(PolicyError, match=words):
            make(contract, folder, **options)


def test_a_faulty_folder_is_named_in_one_line(
    contract: Contract, pi05_folder: Path, tmp_path: Path
) -> None:
    faults: list[tuple[Callable[[Path], object], str]] = [
        (shutil.rmtree, "there is no folder"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04pickle"), "model.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "model.bin"), "model.bin"),
        (lambda f: (f / "normalization.json").unlink(), "has no statistics"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer.json is missing"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    ]
    for number, (spoil, words) in enumerate(faults):
        folder = shutil.copytree(pi05_folder, tmp_path / str(number))
        spoil(folder)
        with pytest.raises(PolicyError) as error:
            make(contract, folder)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(PolicyError, match="device 'cuda:99' cannot be used"):
        Pi05Policy(contract, str(pi05_folder), "cuda:99", PolicyOptions())
    with pytest.raises(PolicyError, match="there is no folder 'lerobot/pi05_base'"):
        make(contract, Path("lerobot/pi05_base"))
