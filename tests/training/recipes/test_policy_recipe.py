# SPDX-License-Identifier: Apache-2.0
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_samples import SUBTASKS, cli, logged, make_dataset
from safetensors.torch import load_file, save_file

from vla_nodes.models.checkpoint import load_model, read_checkpoint, write_checkpoint
from vla_nodes.models.weights import save_weights
from vla_training.data.labels.frame_labels import Settings
from vla_training.data.labels.label import label
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.frame_table import read_frame_table
from vla_training.recipes import policy
from vla_training.recipes.run_state import newest_state
from vla_training.recipes.train import main
from vla_training.recipes.training_loop import Ended
from vla_training.tokens.fast import FastTokenizer
from vla_training.tokens.fit_tokenizer import fit_tokenizer

VISION = "paligemma_with_expert.paligemma.model.vision_tower."
VLM = "paligemma_with_expert.paligemma."


@pytest.fixture(scope="module")
def planner(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training of the planner. Not to be written to."""
    out = tmp_path_factory.mktemp("planner") / "run"
    assert cli(sample, out, "planner", steps=40, batch_size=8, warmup=300) == 0
    return out


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(read_checkpoint(checkpoint)).named_parameters())


def changed(before: Path, after: Path) -> set[str]:
    one, other = weights(before), weights(after)
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def fell(out: Path, name: str) -> bool:
    """Whether a loss of the last quarter lies under that of the first."""
    losses = list(logged(out, name).values())
    quarter = len(losses) // 4
    return np.mean(losses[-quarter:]) < 0.8 * np.mean(losses[:quarter])


def test_the_planner_learns_and_its_checkpoint_is_complete(planner, sample):
    assert fell(planner, "train/text")
    assert set(logged(planner, "validation/text")) == {40}
    checkpoint = read_checkpoint(planner / "checkpoint")
    assert checkpoint.config.vocabulary % 64 == 0
    assert checkpoint.config.vocabulary - 64 < checkpoint.tokenizer.size + 128
    robot = checkpoint.robot
    assert robot.cameras == ("front", "wrist")
    assert robot.state_names == ("pan.position", "lift.position")
    assert robot.action_names == ("pan", "lift", "grip")
    assert robot.fps == 10
    assert robot.subtasks == tuple(sorted(SUBTASKS))
    assert not robot.advantage
    low = np.array(checkpoint.normalization.action.low)
    info = read_info(sample / "data")
    training = split_episodes(info["total_episodes"], 0).train
    actions = read_frame_table(sample / "data", info["features"], 10, training).action
    expected = np.quantile(actions.astype(np.float64), 0.01, axis=0)
    np.testing.assert_allclose(low, expected)
    assert {p.name for p in planner.iterdir()} == {"checkpoint", "state", "logs", "settings.yaml"}


def test_the_expert_learns_on_a_planner_that_stays_as_it_is(planner, sample, tmp_path):
    before = planner / "checkpoint"
    out = tmp_path / "run"
    assert cli(sample, out, "expert", init=before, steps=60, batch_size=8, warmup=300) == 0
    assert fell(out, "train/action")
    moved = changed(before, out / "checkpoint")
    assert moved == {name for name in weights(before) if not name.startswith(VLM)}
    state = load_file(newest_state(out / "state") / "optimizer.safetensors")
    assert not any(name.startswith(VLM) for name in state)
    assert read_checkpoint(out / "checkpoint").robot.subtasks == tuple(sorted(SUBTASKS))


def test_what_stays_as_it_is_gets_the_same_numbers_and_pictures_as_before(planner, tmp_path):
    """On other data, and with the cameras the other way round in the checkpoint."""
    turned, other = tmp_path / "turned", make_dataset(tmp_path / "other", length=16, seed=5)
    before = read_checkpoint(planner / "checkpoint")
    robot = replace(before.robot, cameras=before.robot.cameras[::-1])
    parts = (load_model(before), before.config, robot, before.normalization, before.tokenizer)
    write_checkpoint(turned, *parts)
    argv = ["--dataset", str(other), "--init", str(turned), "--steps", "1", "--batch-size", "2"]
    for mode, kept in (("expert", True), ("joint", False)):
        out = tmp_path / mode
        words = ["policy", "--mode", mode, "--out", str(out), "--workers", "0", *argv]
        assert main(words) == 0
        after = read_checkpoint(out / "checkpoint")
        assert after.robot.cameras == robot.cameras
        assert (after.normalization == before.normalization) is kept


def test_a_planner_s_training_leaves_the_expert_alone(planner, sample, tmp_path):
    out = tmp_path / "run"
    assert cli(sample, out, "planner", init=planner / "checkpoint", weight_decay=0.5) == 0
    moved = changed(planner / "checkpoint", out / "checkpoint")
    assert {name for name in moved if not name.startswith(VLM)} == set()
    assert any(name.startswith(VISION) for name in moved)


def test_a_frozen_picture_encoder_stays_as_it_is(planner, sample, tmp_path):
    out = tmp_path / "run"
    assert cli(sample, out, "joint", "--freeze-vision", init=planner / "checkpoint") == 0
    moved = changed(planner / "checkpoint", out / "checkpoint")
    assert moved == {name for name in weights(out / "checkpoint") if not name.startswith(VISION)}


def test_planner_and_expert_learn_together(sample, tmp_path):
    out = tmp_path / "run"
    assert cli(sample, out, "joint", steps=60, batch_size=8, warmup=300) == 0
    assert fell(out, "train/text")
    assert fell(out, "train/action")
    losses = {name: logged(out, f"train/{name}") for name in ("loss", "text", "action")}
    for step, total in losses["loss"].items():
        expected = losses["text"][step] + 10.0 * losses["action"][step]
        assert total == pytest.approx(expected, rel=1e-5)


def test_the_planner_learns_action_tokens(sample, tmp_path):
    out = tmp_path / "run"
    options = {"fast": sample / "fast", "steps": 40, "batch_size": 8, "learning_rate": 4e-3}
    assert cli(sample, out, "planner-fast", **options) == 0
    assert fell(out, "train/text")
    fast, checkpoint = (
        FastTokenizer.read(out / "checkpoint/fast"),
        read_checkpoint(out / "checkpoint"),
    )
    assert checkpoint.config.vocabulary >= checkpoint.tokenizer.size + fast.size + 128
    # What it learnt to write behind a subtask is the actions' mark, and then the actions.
    assert [checkpoint.subtask_end] == checkpoint.tokenizer.encode("\nAction: ")
    later = tmp_path / "later"
    assert cli(sample, later, "expert", init=out / "checkpoint") == 0
    assert FastTokenizer.read(later / "checkpoint/fast").settings == fast.settings


def test_the_action_loss_reaches_the_language_model_where_it_may(planner, sample, tmp_path):
    """With the same text, only insulation decides whether alpha matters to the planner."""
    init, differs = planner / "checkpoint", {}
    for insulate in ("--insulate", "--no-insulate"):
        outs = [tmp_path / f"{insulate}{alpha}" for alpha in (1, 30)]
        for out, alpha in zip(outs, (1, 30), strict=True):
            options = {"alpha": alpha, "init": init, "steps": 2, "clip": 1e9, "ema": 0}
            assert cli(sample, out, "joint", insulate, **options) == 0
        moved = changed(*(out / "checkpoint" for out in outs))
        differs[insulate] = any(name.startswith(VLM) for name in moved)
    assert differs == {"--insulate": False, "--no-insulate": True}


def test_adapters_are_merged_into_the_checkpoint(planner, sample, tmp_path):
    out, init = tmp_path / "run", planner / "checkpoint"
    assert cli(sample, out, "planner", "--freeze-vision", init=init, lora=4) == 0
    moved = changed(init, out / "checkpoint")
    projector = f"{VLM}model.multi_modal_projector.linear."
    attention = {name for name in moved if not name.startswith(projector)}
    layers = read_checkpoint(init).config.language.depth
    assert len(attention) == 4 * layers
    assert all("language_model" in name and "self_attn" in name for name in attention)


def test_half_precision_and_recomputed_layers_train_alike(sample, tmp_path):
    found = {}
    for words in ([], ["--gradient-checkpointing"], ["--bf16"]):
        out = tmp_path / "-".join(["run", *words])
        assert cli(sample, out, "joint", *words, ema=0) == 0
        found[tuple(words)] = logged(out, "train/loss")
    plain = found[()]
    assert found["--gradient-checkpointing",] == pytest.approx(plain, rel=1e-4)
    assert found["--bf16",] == pytest.approx(plain, rel=0.03)
    assert found["--bf16",] != plain


def test_a_resumed_policy_is_the_uninterrupted_one(sample, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"steps": 6, "save_every": 3, "keep": 9}
    for out in (whole, parts):
        assert cli(sample, out, "joint", **options) == 0
    shutil.rmtree(parts / "state/step-00000006")
    shutil.rmtree(parts / "checkpoint")
    assert main(["policy", "--resume", "--out", str(parts)]) == 0
    for file in ("model.safetensors", "optimizer.safetensors", "ema.safetensors"):
        one, other = (load_file(out / "state/step-00000006" / file) for out in (whole, parts))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not changed(whole / "checkpoint", parts / "checkpoint")
    assert logged(parts, "train/loss") == logged(whole, "train/loss")


def test_a_training_is_resumed_on_the_same_data_and_tokenisers_only(sample, tmp_path, capsys):
    def resumed(**changes):
        words = [w for name, value in changes.items() for w in (f"--{name}", str(value))]
        return main(["policy", "--resume", "--out", str(tmp_path / "run"), *words])

    assert cli(sample, tmp_path / "run", "joint", steps=1) == 0
    moved = shutil.copytree(sample, tmp_path / "moved")
    assert resumed(dataset=moved / "data", tokenizer=moved / "tokenizer") == 0
    other = make_dataset(tmp_path / "other/data", seed=1)
    capsys.readouterr()
    assert resumed(dataset=other) == 1
    assert "normalization.json was" in capsys.readouterr().err
    fit_tokenizer({"other words"}, set(SUBTASKS), vocabulary=560).write(tmp_path / "tokenizer")
    assert resumed(tokenizer=tmp_path / "tokenizer") == 1
    assert "tokenizer/tokenizer.json was" in capsys.readouterr().err
    assert resumed() == 0


def test_a_published_base_brings_neither_statistics_nor_tokeniser(
    planner, sample, tmp_path, capsys
):
    base = shutil.copytree(planner / "checkpoint", tmp_path / "base")
    shutil.rmtree(base / "tokenizer")
    (base / "normalization.json").unlink()
    assert cli(sample, tmp_path / "run", "joint", init=base) == 1
    assert "has no tokeniser; give the model's own by --tokenizer" in capsys.readouterr().err
    words = ["--tokenizer", str(sample / "tokenizer")]
    options = {"init": base, "steps": 1, "learning_rate": 1e-12, "weight_decay": 0, "ema": 0}
    assert cli(sample, tmp_path / "run", "joint", *words, **options) == 0
    one, other = weights(planner / "checkpoint"), weights(tmp_path / "run/checkpoint")
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-9, rtol=1e-6)
    large = tmp_path / "large"
    fit_tokenizer({"a b c d e"}, {chr(k) for k in range(300, 900)}, vocabulary=1400).write(large)
    assert cli(sample, tmp_path / "no", "joint", "--tokenizer", str(large), init=base) == 1
    assert "expected the tokeniser that the checkpoint was trained with" in capsys.readouterr().err
    words += ["--fast", str(sample / "fast")]
    assert cli(sample, tmp_path / "fast", "planner-fast", *words, init=base, steps=1) == 0
    assert (tmp_path / "fast/checkpoint/fast").is_dir()


def test_weights_that_do_not_fit_are_named_before_the_data_are_read(
    planner, sample, tmp_path, capsys
):
    base = shutil.copytree(planner / "checkpoint", tmp_path / "base")
    kept = load_file(base / "model.safetensors")
    gone = next(name for name in kept if "time_mlp_in" in name)
    save_file({n: w for n, w in kept.items() if n != gone}, base / "model.safetensors")
    assert cli(sample, tmp_path / "run", "joint", init=base, cameras="none") == 1
    assert "time_mlp_in" in capsys.readouterr().err


def test_labels_are_told_where_there_are_some(sample, tmp_path):
    labelled = tmp_path / "sample"
    shutil.copytree(sample, labelled)
    label(labelled / "data", Settings(values="outcome"))
    for word, told in (("--advantage", True), ("--no-advantage", False)):
        assert cli(labelled, tmp_path / word, "joint", word, steps=1) == 0
        assert read_checkpoint(tmp_path / word / "checkpoint").robot.advantage is told


def test_a_training_is_never_overwritten(planner, sample, tmp_path, capsys):
    before = weights(planner / "checkpoint")
    assert cli(sample, planner, "planner") == 1
    assert "holds a training already, up to step-00000040" in capsys.readouterr().err
    assert all(torch.equal(before[n], w) for n, w in weights(planner / "checkpoint").items())
    (tmp_path / "letter.txt").write_text("dear reader")
    assert cli(sample, tmp_path, "planner") == 1
    assert "holds something else" in capsys.readouterr().err


def test_a_training_is_resumed_with_its_own_settings(planner, capsys):
    assert main(["policy", "--resume", "--out", str(planner), "--batch-size", "2"]) == 1
    assert "was begun with batch_size 8, not 2" in capsys.readouterr().err
    assert main(["policy", "--resume", "--out", str(planner), "--workers", "1"]) == 0


def test_statistics_of_several_datasets_are_those_of_all_training_frames(sample, tmp_path):
    other = make_dataset(tmp_path / "other", episodes=3, length=16, seed=5)
    out, words = tmp_path / "run", ["--normalization", "mean_std"]
    both = [str(sample / "data"), str(other)]
    argv = ["--mode", "joint", "--size", "tiny", "--tokenizer", str(sample / "tokenizer")]
    argv += ["--steps", "1", "--batch-size", "2", "--workers", "0", *words]
    assert main(["policy", *argv, "--out", str(out), "--dataset", *both]) == 0
    actions = np.concatenate(
        [
            read_frame_table(
                Path(root), info["features"], 10, split_episodes(info["total_episodes"], 0).train
            ).action
            for root in both
            for info in [read_info(Path(root))]
        ]
    )
    scaling = read_checkpoint(out / "checkpoint").normalization.action
    np.testing.assert_allclose(scaling.low, actions.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(scaling.high, actions.std(axis=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "no/such/folder"}, "tokenizer.json is missing"),
        ({"max_delay": 8}, "max_delay 8, expected 0 to 7"),
        ({"batch_size": 5, "accumulate": 2}, "batch_size is 5"),
        ({"steps": 0}, "steps is 0"),
        ({"validation": 0.9, "test": 0.1}, "shares are"),
        ({"cameras": "top"}, "has no camera 'top'"),
        ({"init": "no/such/checkpoint"}, "no folder"),
        ({"chunk": 9, "fast": "fast"}, "of chunks of 8 actions, and the model of 9"),
    ],
)
def test_bad_input_is_told_in_one_line(sample, tmp_path, capsys, changes, message):
    if changes.get("fast"):
        changes = {**changes, "fast": sample / changes["fast"]}
    assert cli(sample, tmp_path / "run", "planner", **changes) == 1
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert error[-1].startswith("vla-train: ")
    assert not (tmp_path / "run/checkpoint").exists()


def test_an_error_of_a_loading_process_is_one_line_too(sample, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(sample, broken)
    video = next((broken / "data/videos").rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[:3000])
    assert cli(broken, tmp_path / "run", "planner", workers=1) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("vla-train: ")
    assert "cannot be read" in last or "has no picture" in last


def test_wild_weights_stop_with_the_step_and_the_loss(planner, sample, tmp_path, capsys):
    init = tmp_path / "wild"
    shutil.copytree(planner / "checkpoint", init)
    wild = {n: torch.full_like(w, 1e30) for n, w in weights(init).items()}
    save_weights(init / "model.safetensors", wild, None)
    assert cli(sample, tmp_path / "run", "joint", init=init) == 1
    assert "step 1: the loss 'text' is nan" in capsys.readouterr().err


def test_an_error_without_a_text_is_told_by_its_kind(sample, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(policy, "train", fail)
    assert cli(sample, tmp_path / "run", "planner") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "vla-train: BrokenPipeError()"


def test_an_interrupted_training_says_how_to_go_on(sample, tmp_path, capsys, monkeypatch):
    ended = Ended(step=2, interrupted=True, best=np.inf)
    monkeypatch.setattr(policy, "train", lambda *_, **__: ended)
    assert cli(sample, tmp_path / "run", "planner") == 130
    assert "stopped after step 2 of 4; --resume goes on" in capsys.readouterr().err


def test_a_weight_of_the_dataset_changes_what_is_learnt(tmp_path, sample, capsys):
    assert cli(sample, tmp_path / "none", "joint", "--weigh") == 1
    assert "has no column weight; vla-label --beta makes it" in capsys.readouterr().err
    assert cli(sample, tmp_path / "none", "planner", "--weigh") == 1
    assert "leave out --weigh" in capsys.readouterr().err
    folder = Path(shutil.copytree(sample, tmp_path / "sample"))
    label(folder / "data", Settings(values="timestamp", beta=0.1))
    for name, words in (("plain", ()), ("weighed", ("--weigh",))):
        assert cli(folder, tmp_path / name, "joint", *words, steps=1) == 0
    plain, weighed = (
        {key: logged(tmp_path / name, f"train/{key}")[1] for key in ("text", "action")}
        for name in ("plain", "weighed")
    )
    assert weighed["text"] == plain["text"]
    assert weighed["action"] != pytest.approx(plain["action"], rel=1e-3)
