# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.pi05 import processor_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.processor.converters import create_transition
from safetensors.torch import load_file, save_file
from tokenizer_samples import paligemma_like

from vla_nodes.models import foreign_statistics
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.prompts import actor_prompt, state_bins
from vla_nodes.models.scaling import Scaling
from vla_nodes.models.tokenizer import Tokenizer

JOINTS = ("pan", "lift", "grip")
MODES = {"quantile": NormalizationMode.QUANTILES, "mean_std": NormalizationMode.MEAN_STD}
STATE, ACTION = "observation.state", "action"


def statistics(seed: int = 0, joints: int = 3) -> dict[str, dict[str, list[float]]]:
    """As ``meta/stats.json`` holds them."""
    rng = np.random.default_rng(seed)
    result = {}
    for key in (STATE, ACTION):
        samples = rng.normal(rng.normal(size=joints), rng.uniform(0.01, 30, joints), (500, joints))
        first, last = np.quantile(samples, [0.01, 0.99], axis=0)
        result[key] = {
            "mean": samples.mean(0).tolist(),
            "std": samples.std(0).tolist(),
            "q01": first.tolist(),
            "q99": last.tolist(),
            "count": [500],
        }
    return result


def tensors(stats: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, torch.Tensor]]:
    return {k: {n: torch.tensor(v) for n, v in s.items()} for k, s in stats.items()}


def save_lerobot(folder: Path, mode: str = "quantile", stats: Any = None, **settings: Any) -> Path:
    """What LeRobot saves beside a pi0.5's weights, its processors as well."""
    pre, post = processors(folder, mode, statistics() if stats is None else stats, **settings)
    pre.save_pretrained(folder)
    post.save_pretrained(folder)
    return folder


def processors(folder: Path, mode: str, stats: Any, **settings: Any) -> tuple[Any, Any]:
    Tokenizer(paligemma_like()).write(folder / "tokenizer")
    config = PI05Config(
        device="cpu",
        input_features={STATE: PolicyFeature(FeatureType.STATE, (3,))},
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (3,))},
        normalization_mapping={
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": MODES.get(mode, mode),
            "ACTION": MODES.get(mode, mode),
        },
        **settings,
    )
    with pytest.MonkeyPatch.context() as patch:
        # PaliGemma's own would have to be fetched.
        step = processor_pi05.TokenizerProcessorStep
        patch.setattr(
            processor_pi05,
            "TokenizerProcessorStep",
            lambda **kept: step(**{**kept, "tokenizer_name": str(folder / "tokenizer")}),
        )
        return processor_pi05.make_pi05_pre_post_processors(config, tensors(stats))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_those_of_lerobots_steps(mode: str, seed: int):
    stats = statistics(seed)
    ours = Normalization.of_statistics(stats, JOINTS, JOINTS, mode)
    kinds = {"features": {}, "norm_map": {}, "stats": tensors(stats), "dtype": torch.float64}
    for key, kind in ((STATE, FeatureType.STATE), (ACTION, FeatureType.ACTION)):
        kinds["features"][key] = PolicyFeature(kind, (3,))
        kinds["norm_map"][kind] = MODES[mode]
    rng = np.random.default_rng(seed)
    values = {key: rng.normal(0, 20, (7, 3)) for key in (STATE, ACTION)}
    transition = create_transition(
        observation={STATE: torch.from_numpy(values[STATE])},
        action=torch.from_numpy(values[ACTION]),
    )
    for step, change in (
        (NormalizerProcessorStep(**kinds), Scaling.normalise),
        (UnnormalizerProcessorStep(**kinds), Scaling.restore),
    ):
        theirs = step(transition)
        # LeRobot adds 1e-8 to a standard deviation, and rounds statistics to float32.
        for expected, scaling, key in (
            (theirs["observation"][STATE], ours.state, STATE),
            (theirs["action"], ours.action, ACTION),
        ):
            np.testing.assert_allclose(change(scaling, values[key]), expected, 2e-5, 2e-5)


@settings(deadline=None)
@given(
    arrays(np.float64, (4, 3), elements=st.floats(-100, 100)),
    arrays(np.float64, 3, elements=st.floats(-10, 10)),
    arrays(np.float64, 3, elements=st.floats(1e-3, 10)),
    st.sampled_from(sorted(MODES)),
)
def test_what_is_normalised_is_restored(values, low, spread, mode):
    high = low + spread if mode == "quantile" else spread
    scaling = Scaling(JOINTS, mode, tuple(low), tuple(high))
    np.testing.assert_allclose(scaling.restore(scaling.normalise(values)), values, atol=1e-9)


def test_quantiles_become_the_ends_and_means_the_middle():
    stats = statistics()
    ours = Normalization.of_statistics(stats, JOINTS, JOINTS, "quantile").action
    np.testing.assert_allclose(ours.normalise(stats[ACTION]["q01"]), [-1, -1, -1], atol=1e-12)
    np.testing.assert_allclose(ours.normalise([stats[ACTION]["q99"]]), [[1, 1, 1]], atol=1e-12)
    ours = Normalization.of_statistics(stats, JOINTS, JOINTS, "mean_std").state
    np.testing.assert_allclose(ours.restore(np.zeros((2, 3))), [stats[STATE]["mean"]] * 2)
    np.testing.assert_allclose(
        ours.restore([1, 1, 1]), np.add(stats[STATE]["mean"], stats[STATE]["std"])
    )


@pytest.mark.parametrize("shape", [(), (2,), (3, 1), (3, 4)])
def test_vectors_of_another_length_are_refused(shape: tuple[int, ...]):
    scaling = Normalization.of_statistics(statistics(), JOINTS, JOINTS, "quantile").state
    for change in (scaling.normalise, scaling.restore):
        with pytest.raises(ValueError, match=re.escape(f"shape is {shape}, expected (..., 3)")):
            change(np.zeros(shape))


@pytest.mark.parametrize("mode", MODES)
def test_what_was_written_is_read_to_the_bit(tmp_path: Path, mode: str):
    stats = statistics()
    ours = Normalization.of_statistics(stats, JOINTS, ("a", "b", "Öse"), mode)
    ours.write(tmp_path)
    assert Normalization.read(tmp_path) == ours
    assert [file.name for file in tmp_path.iterdir()] == ["normalization.json"]
    names = {"quantile": {"q01", "q99"}, "mean_std": {"mean", "std"}}[mode]
    saved = json.loads((tmp_path / "normalization.json").read_text())
    assert set(saved["action"]) == {"mode", "names", *names}


@pytest.mark.parametrize("mode", MODES)
def test_lerobots_processors_are_read(tmp_path: Path, mode: str):
    stats = statistics()
    read = Normalization.read(save_lerobot(tmp_path, mode))
    expected = Normalization.of_statistics(stats, JOINTS, JOINTS, mode)
    for ours, other in ((read.state, expected.state), (read.action, expected.action)):
        assert ours.mode == mode
        assert ours.names == ("0", "1", "2")
        np.testing.assert_allclose(ours.low, other.low, rtol=1e-6)
        np.testing.assert_allclose(ours.high, other.high, rtol=1e-6)


@pytest.mark.parametrize("task", ["stack the_cups", " Tür\nöffnen 开门 "])
def test_prompts_and_actions_are_those_of_lerobots_processors(tmp_path: Path, task: str):
    pre, post = processors(tmp_path, "quantile", statistics(), tokenizer_max_length=150)
    pre.save_pretrained(tmp_path)
    post.save_pretrained(tmp_path)
    ours, tokenizer = Normalization.read(tmp_path), Tokenizer.read(tmp_path / "tokenizer")
    # Under the 1st percentile LeRobot writes -1 for the bin.
    low, high = (torch.tensor(statistics()[STATE][name]) for name in ("q01", "q99"))
    state = low + torch.tensor([0.02, 0.61, 1.3]) * (high - low)
    theirs = pre({STATE: state, "task": task})
    tokens = theirs["observation.language.tokens"][0]
    tokens = tokens[theirs["observation.language.attention_mask"][0].bool()].tolist()
    prompt = actor_prompt(task, state_bins(ours.state.normalise(state)))
    assert tokens == [tokenizer.bos_id, *tokenizer.encode(prompt)]
    action = torch.tensor([[0.3, -0.9, 1.4]])
    np.testing.assert_allclose(ours.action.restore(action), post(action), rtol=1e-5, atol=1e-5)


def test_the_action_is_scaled_as_after_lerobots_policy(tmp_path: Path):
    save_lerobot(tmp_path)
    file = next(tmp_path.glob("policy_postprocessor*.safetensors"))
    save_file({**load_file(file), "action.q99": torch.tensor([50.0, 60.0, 70.0])}, file)
    assert Normalization.read(tmp_path).action.high == (50.0, 60.0, 70.0)


def test_relative_actions_are_refused(tmp_path: Path):
    save_lerobot(tmp_path, use_relative_actions=True)
    with pytest.raises(CheckpointError, match=r"policy_preprocessor\.json: actions are relative"):
        Normalization.read(tmp_path)


@pytest.mark.parametrize("mode", ["MIN_MAX", "IDENTITY"])
def test_another_scaling_of_lerobots_is_refused(tmp_path: Path, mode: str):
    save_lerobot(tmp_path, NormalizationMode[mode])
    with pytest.raises(CheckpointError, match=f"STATE by '{mode}', expected QUANTILES or MEAN_STD"):
        Normalization.read(tmp_path)


def test_lerobots_processors_without_statistics_are_named(tmp_path: Path):
    save_lerobot(tmp_path, stats={})
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors|no statistics of obs"):
        Normalization.read(tmp_path)


@pytest.mark.parametrize("pattern", ["policy_postprocessor.json", "policy_pre*.safetensors"])
def test_a_missing_file_of_lerobots_is_named(tmp_path: Path, pattern: str):
    save_lerobot(tmp_path)
    file = next(tmp_path.glob(pattern))
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{re.escape(str(file))} is missing"):
        Normalization.read(tmp_path)


@pytest.mark.parametrize("file", ["../other.safetensors", "/etc/x.safetensors", "stats.pkl", 3])
def test_statistics_outside_the_folder_or_of_another_kind_are_refused(tmp_path: Path, file: Any):
    path = save_lerobot(tmp_path / "checkpoint") / "policy_preprocessor.json"
    content = json.loads(path.read_text())
    for step in content["steps"]:
        if step["registry_name"] == "normalizer_processor":
            step["state_file"] = file
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors beside it"):
        Normalization.read(tmp_path / "checkpoint")


def test_a_pipe_in_place_of_lerobots_statistics_is_not_waited_for(tmp_path: Path):
    save_lerobot(tmp_path)
    file = next(tmp_path.glob("policy_pre*.safetensors"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match=rf"{file.name} is no regular file"):
        Normalization.read(tmp_path)


def test_damaged_or_huge_statistics_of_lerobots_are_named(tmp_path: Path, monkeypatch):
    save_lerobot(tmp_path)
    file = next(tmp_path.glob("policy_pre*.safetensors"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=rf"{file.name} is damaged"):
        Normalization.read(tmp_path)
    save_lerobot(tmp_path)
    monkeypatch.setattr(foreign_statistics, "_LARGEST", 20)
    with pytest.raises(CheckpointError, match=rf"{file.name} is too large: expected at most 20"):
        Normalization.read(tmp_path)


def save_openpi(folder: Path, robot: str, padding: float | None = None) -> dict[str, Any]:
    """As openpi saves it; old versions filled its vectors up to 32."""
    content = {}
    for key, value in zip(("state", "actions"), statistics().values(), strict=True):
        values = {name: value[name] for name in ("mean", "std", "q01", "q99")}
        if padding is not None:
            values = {name: [*v, *[padding] * 29] for name, v in values.items()}
        content[key] = values
    path = folder / "assets" / robot / "norm_stats.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"norm_stats": content}))
    return content


@pytest.mark.parametrize("robot", ["droid", "physical-intelligence/libero"])
@pytest.mark.parametrize("padding", [None, 0.0, -1e-10])
def test_openpis_statistics_are_read(tmp_path: Path, robot: str, padding: float | None):
    save_openpi(tmp_path, robot, padding)
    stats = statistics()
    expected = Normalization.of_statistics(stats, ("0", "1", "2"), ("0", "1", "2"), "quantile")
    assert Normalization.read(tmp_path) == expected


def test_statistics_of_several_robots_are_refused(tmp_path: Path):
    save_openpi(tmp_path, "droid")
    save_openpi(tmp_path, "trossen")
    with pytest.raises(CheckpointError, match=r"several robots \(droid, trossen\)"):
        Normalization.read(tmp_path)


def test_a_folder_without_statistics_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"has no statistics: expected normalization\.json"):
        Normalization.read(tmp_path)


def test_statistics_get_the_robots_names_or_are_of_another(tmp_path: Path):
    save_openpi(tmp_path, "droid")
    foreign = Normalization.read(tmp_path)
    named = foreign.named(JOINTS, ("x", "y", "z"))
    assert (named.state.names, named.action.names) == (JOINTS, ("x", "y", "z"))
    assert named.action.low == foreign.action.low
    assert named.named(JOINTS, ("x", "y", "z")) == named
    with pytest.raises(CheckpointError, match=r"action: .* of 3 joints .*the robot has 2 \(x, y\)"):
        foreign.named(JOINTS, ("x", "y"))
    with pytest.raises(CheckpointError, match=r"state: .*\(pan, lift, grip\).*\(lift, pan, grip\)"):
        named.named(("lift", "pan", "grip"), ("x", "y", "z"))


@pytest.mark.parametrize(
    ("changes", "mode", "fault"),
    [
        ({ACTION: None}, "quantile", "no statistics of action"),
        ({STATE: {"mean": [0, 0, 0]}}, "quantile", "observation.state: there is no q01, only mean"),
        ({STATE: {"q01": [0, 0], "q99": [1, 1]}}, "quantile", "q01 has 2 numbers, expected 3: pan"),
        ({ACTION: {"mean": "x", "std": []}}, "mean_std", "action: mean: could not convert"),
        ({ACTION: {"mean": 3, "std": 3}}, "mean_std", r"mean has shape \(\), expected"),
        ({ACTION: {"mean": [[1]], "std": [[1]]}}, "mean_std", r"mean has shape \(1, 1\)"),
        ({ACTION: {"mean": [], "std": []}}, "mean_std", r"mean has shape \(0,\)"),
        (
            {ACTION: {"mean": [0, 0, 0], "std": [1, 0, 1]}},
            "mean_std",
            r"action: joint 'lift' has no spread \(mean 0, std 0\).* leave it out of the robot",
        ),
        (
            {STATE: {"q01": [0, 0, 0.3], "q99": [1, 1, 0.3]}},
            "quantile",
            r"observation.state: joint 'grip' has no spread \(q01 0.3, q99 0.3\)",
        ),
        ({STATE: {"q01": [0, 5, 0], "q99": [1, 1, 1]}}, "quantile", "joint 'lift' has no spread"),
        (
            {STATE: {"q01": [0, np.nan, 0], "q99": [1, 1, 1]}},
            "quantile",
            "joint 'lift' has q01 nan and q99 1.0, expected finite",
        ),
        ({STATE: {"q01": [0, 10**400, 0], "q99": [1, 1, 1]}}, "quantile", "q01: int too large"),
        (
            {STATE: {"q01": [0, -1.7e308, 0], "q99": [1, 1.7e308, 1]}},
            "quantile",
            "joint 'lift' has q01 -1.7e.308 and q99 1.7e.308, expected finite",
        ),
        (
            {STATE: {"mean": [0, 0, 0], "std": [1, 1, np.inf]}},
            "mean_std",
            "joint 'grip' has mean 0.0 and std inf, expected finite",
        ),
    ],
)
def test_statistics_that_cannot_be_used_are_named(changes: Any, mode: Any, fault: str):
    stats = {key: value for key, value in {**statistics(), **changes}.items() if value is not None}
    with pytest.raises(CheckpointError, match=fault):
        Normalization.of_statistics(stats, JOINTS, JOINTS, mode)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"state": None}, "there is no state"),
        ({"action": {"mode": "min_max"}}, "action has mode 'min_max', expected quantile or mean_s"),
        ({"action": {"mode": ["x"]}}, r"action has mode \['x'\], expected"),
        ({"action": {"mode": "quantile", "names": "abc"}}, "action has names 'abc', expected"),
        ({"state": {"mode": "quantile", "names": ["a"]}}, "state: there is no q01, only mode"),
    ],
)
def test_a_file_of_ours_that_cannot_be_used_is_named(tmp_path: Path, changes: Any, fault: str):
    Normalization.of_statistics(statistics(), JOINTS, JOINTS, "quantile").write(tmp_path)
    path = tmp_path / "normalization.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=rf"normalization\.json: {fault}"):
        Normalization.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "holds a list, expected an object"),
        (b"\xff", "cannot be read"),
        (b" " * (1 << 20) + b"{}", "is too large: expected at most 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: bytes, fault: str):
    (tmp_path / "normalization.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"normalization\.json {fault}"):
        Normalization.read(tmp_path)
