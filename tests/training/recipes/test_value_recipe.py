# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pretrained_samples import make_gemma, make_siglip_vision
from recipe_samples import SUBTASKS, TASKS, logged, make_dataset, make_tokenizers
from safetensors.torch import load_file
from vqa_samples import coloured, write_llava

from vla_nodes.models.c51 import expected_value
from vla_nodes.models.value_checkpoint import load_value_model, read_value_checkpoint
from vla_training.data.labels.frame_labels import Settings
from vla_training.data.labels.label import label
from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.training_set import TrainingSet
from vla_training.data.loading.value_set import ValueSet, collate_values
from vla_training.recipes import train
from vla_training.recipes.train import main
from vla_training.recipes.value_batches import ValueBatches

EPISODES = 8


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled ``data`` and ``tokenizer``. Not to be written to."""
    folder = tmp_path_factory.mktemp("value")
    make_dataset(folder / "data", episodes=EPISODES, failed={1, 4})
    label(folder / "data", Settings())
    make_tokenizers(folder / "data", folder, 8)
    return folder


def cli(robot: Path, out: Path, arch: str, *words: str, **options: Any) -> int:
    """Runs the command on a tiny model; returns its exit status."""
    given: dict[str, Any] = {
        "size": "tiny",
        "tokenizer": robot / "tokenizer",
        "dataset": robot / "data",
        "steps": 6,
        "batch-size": 4,
        "workers": 0,
        "log-every": 1,
        "learning-rate": 3e-3,
        "warmup": 1,
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
    if "init" in given or "gemma" in given:
        del given["size"], given["tokenizer"]
    argv = ["value", "--arch", arch, "--out", str(out), *words]
    return main([*argv, *(w for n, v in given.items() for w in (f"--{n}", str(v)))])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "model.safetensors")


@pytest.fixture(scope="module")
def trained(robot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a training by architecture. Not to be written to."""
    found = {}
    for arch in ("cross-attention", "stitched"):
        found[arch] = tmp_path_factory.mktemp("trained") / arch
        options = {"steps": 60, "validate_every": 20, "batch_size": 8, "history": 2}
        assert cli(robot, found[arch], arch, "--no-augment", **options) == 0
    return found


@pytest.mark.parametrize("arch", ["cross-attention", "stitched"])
def test_values_are_learnt_and_the_best_are_kept(arch, trained, robot):
    run = trained[arch]
    losses = list(logged(run, "train/value").values())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    checkpoint = read_value_checkpoint(run / "checkpoint")
    told = checkpoint.interface
    assert told.cameras == ("front", "wrist")
    assert set(told.tasks) == {*TASKS, *SUBTASKS}
    assert told.labels["mode"] == "per_task"
    assert (told.split_seed, told.fps) == (0, 10.0)
    # The lowest of the losses that validation found is that of the weights in the checkpoint.
    split = split_episodes(EPISODES, told.split_seed, told.shares)
    frames = TrainingSet(robot / "data", 1, split.validation, require=("return",))
    items = ValueSet(frames, checkpoint.config.history, checkpoint.config.history_step)
    batches = ValueBatches(checkpoint.config, checkpoint.tokenizer, told.cameras)
    batch = collate_values([items[k] for k in range(len(items))])
    made = batches.make(batch, [np.random.default_rng(0)] * len(items), "cpu")
    model = load_value_model(checkpoint)
    with torch.no_grad():
        features = model.encode(made.views.flatten(0, 1)).unflatten(0, made.mask.shape)
        logits = model(features, made.mask, made.ids, made.id_mask)
    error = (expected_value(logits) - batch.task_return).abs().mean()
    assert 0.0 < error < 0.5
    found = logged(run, "validation/value")
    assert len(found) == 3
    best = json.loads(next((run / "state").glob("*/state.json")).read_text())
    assert best["best validation loss"] == pytest.approx(min(found.values()), rel=1e-5)


def test_the_token_embedding_of_cross_attention_stays(trained, robot, tmp_path):
    run = tmp_path / "run"
    assert cli(robot, run, "cross-attention", init=trained["cross-attention"] / "checkpoint") == 0
    before, after = weights(trained["cross-attention"]), weights(run)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"language.embed_tokens.weight"}


def test_frozen_parts_stay_and_adapters_are_merged(trained, robot, tmp_path):
    run, init = tmp_path / "run", trained["stitched"] / "checkpoint"
    words = ("--freeze-vision",)
    assert cli(robot, run, "stitched", *words, init=init, lora=4) == 0
    before, after = weights(trained["stitched"]), weights(run)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {n for n in before if n.startswith("language.layers") and "_proj" in n}
    adapted = {n for n in adapted if "self_attn" in n}
    new = {n for n in before if n.startswith(("projector.", "head.", "ages."))}
    assert moved == adapted | new


def test_features_of_a_frozen_encoder_train_as_the_pictures_do(trained, robot, tmp_path):
    init = trained["cross-attention"] / "checkpoint"
    words = ("--freeze-vision", "--no-augment")
    assert cli(robot, tmp_path / "one", "cross-attention", *words, init=init) == 0
    cached = {"init": init, "features": tmp_path / "features"}
    assert cli(robot, tmp_path / "other", "cross-attention", *words, **cached) == 0
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=0)
    first = logged(tmp_path / "one", "train/value")
    second = logged(tmp_path / "other", "train/value")
    assert [*first.values()] == pytest.approx([*second.values()], abs=1e-2)


def test_a_resumed_training_is_the_same(robot, tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    options = {"save_every": 3, "validate_every": 3, "history": 2}
    assert cli(robot, whole, "stitched", **options) == 0
    assert cli(robot, parted, "stitched", **options) == 0
    shutil.rmtree(parted / "state" / "step-00000006")
    again = ["value", "--arch", "stitched", "--out", str(parted), "--resume"]
    assert main([*again, "--validate-every", "2"]) == 1  # it would choose other weights
    assert main(again) == 0
    one, other = weights(whole), weights(parted)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_epochs_are_counted_in_frames(robot, tmp_path, capsys):
    assert cli(robot, tmp_path / "run", "cross-attention", epochs=0.25) == 0
    # Six episodes of ten frames to learn from, and four of them in a step.
    assert "4 of 4 steps" in capsys.readouterr().out


def test_epochs_shorten_the_rise_of_the_rate(robot, tmp_path):
    run = tmp_path / "run"
    assert cli(robot, run, "cross-attention", epochs=1, steps=1000, warmup=1000) == 0
    rates = list(logged(run, "train/learning_rate").values())
    assert len(rates) == 15
    assert np.argmax(rates) == 1  # a tenth of the steps
    assert rates[-1] < 0.2 * max(rates)


def test_questions_make_no_epoch_longer(robot, tmp_path, capsys):
    file, pictures = write_llava(tmp_path / "vqa", coloured(50))
    options = {"questions": file, "pictures": pictures, "epochs": 0.25}
    assert cli(robot, tmp_path / "run", "stitched", **options) == 0
    assert "4 of 4 steps" in capsys.readouterr().out


def test_other_targets_or_questions_are_not_resumed_on(robot, tmp_path, capsys):
    data, run = shutil.copytree(robot / "data", tmp_path / "data"), tmp_path / "run"
    file, pictures = write_llava(tmp_path / "vqa", coloured(9))
    options = {"questions": file, "pictures": pictures, "dataset": data, "steps": 1}
    assert cli(robot, run, "stitched", **options) == 0
    again = ["value", "--arch", "stitched", "--out", str(run), "--resume"]
    assert main(again) == 0
    file.write_text(file.read_text().replace("colour", "hue"))
    assert main(again) == 1
    assert "is of another training: questions" in capsys.readouterr().err
    file.write_text(file.read_text().replace("hue", "colour"))
    table = next((data / "data").glob("*/*.parquet"))
    frames = pq.read_table(table)
    place = frames.column_names.index("return")
    halved = pa.array(frames["return"].to_numpy() / 2, pa.float32())
    pq.write_table(frames.set_column(place, frames.schema.field(place), halved), table)
    assert main(again) == 1
    assert "is of another training: targets" in capsys.readouterr().err


def test_defaults_are_those_of_the_architecture(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "_train", seen.append)
    for words in (["--arch=stitched"], ["--arch", "cross-attention", "--out", "stitched"]):
        given = ["--out", str(tmp_path), *words, "--dataset", "stitched", "--tokenizer", "t"]
        assert main(["value", *given]) == 0
    stitched, cross = seen
    assert (stitched.loop.batch_size, stitched.loop.learning_rate, stitched.epochs) == (8, 1e-4, 10)
    assert (stitched.loop.warmup, stitched.loop.weight_decay, stitched.loop.bf16) == (
        *(100, 0.01),
        True,
    )
    assert (cross.loop.batch_size, cross.loop.learning_rate, cross.epochs) == (32, 5e-5, None)
    assert (cross.loop.warmup, cross.loop.weight_decay, cross.loop.steps) == (1000, 1e-10, 10_000)


def test_both_stages_align_first_and_questions_stay_answered(robot, tmp_path, capsys):
    siglip, gemma = tmp_path / "siglip", tmp_path / "gemma"
    make_siglip_vision(siglip)
    make_gemma(gemma)
    file, pictures = write_llava(tmp_path / "vqa", coloured(8))
    out = tmp_path / "run"
    options = {"siglip": siglip, "gemma": gemma, "questions": file, "pictures": pictures}
    words = ("--stage", "both", "--freeze-vision")
    assert cli(robot, out, "stitched", *words, lora=4, steps=12, validate_every=4, **options) == 0
    aligned, valued = weights(out / "alignment"), weights(out / "value")
    moved = {name for name in aligned if not torch.equal(aligned[name], valued[name])}
    assert not any(name.startswith("vision.") for name in moved)
    assert any(name.startswith("projector.") for name in moved)
    answered = list(logged(out / "value", "validation/questions").values())
    assert answered[-1] < answered[0] + 0.05
    before = (out / "settings.yaml").read_bytes()
    assert cli(robot, out, "stitched", *words, lora=8, steps=12, **options) == 1
    assert "holds a training already" in capsys.readouterr().err
    assert (out / "settings.yaml").read_bytes() == before


def test_targets_may_be_the_nearest_atom_alone(robot, trained):
    checkpoint = read_value_checkpoint(trained["stitched"] / "checkpoint")
    frames = TrainingSet(robot / "data", 1, [0], require=("return",))
    items = ValueSet(frames, 2)
    batch = collate_values([items[k] for k in range(10)])
    batch = replace(batch, task_return=torch.linspace(-0.9931, -0.0042, 10))  # between atoms
    batches = ValueBatches(checkpoint.config, checkpoint.tokenizer, ("front", "wrist"))
    rngs = [np.random.default_rng(k) for k in range(10)]
    for nearest in (False, True):
        made = ValueBatches(**{**vars(batches), "nearest": nearest}).make(batch, rngs, "cpu")
        atoms = (made.targets > 0).sum(-1)
        expected = np.rint((batch.task_return.numpy().astype(np.float64) + 1) * 200)
        if nearest:
            assert atoms.tolist() == [1] * 10
            assert made.targets.argmax(-1).tolist() == expected.astype(int).tolist()
        else:
            assert atoms.tolist() == [2] * 10


def test_a_share_of_the_items_is_told_by_the_subtask(robot, trained):
    checkpoint = read_value_checkpoint(trained["stitched"] / "checkpoint")
    items = ValueSet(TrainingSet(robot / "data", 1, range(6), require=("return",)), 2)
    batch = collate_values([items[k] for k in range(60)])
    args = (checkpoint.config, checkpoint.tokenizer, ("front", "wrist"))
    rngs = [np.random.default_rng(k) for k in range(60)]
    made = ValueBatches(*args, subtasks=0.5).make(batch, rngs, "cpu")
    means = (made.targets @ torch.linspace(-1, 0, 201)).numpy()
    told = np.array([np.random.default_rng(k).random() < 0.5 for k in range(60)])
    assert 15 < told.sum() < 45
    expected = np.where(told, batch.subtask_return, batch.task_return)
    np.testing.assert_allclose(means, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        ((), {"cameras": "back"}, "camera 'back'"),
        ((), {"validation": 0.0}, "validation is 0.0, expected a share between 0 and 1"),
        (("--freeze-vision",), {}, "--freeze-vision needs --init or --siglip"),
        ((), {"lora": 4}, "--lora need --init or --gemma"),
        ((), {"questions": "q.json"}, "no language head"),
        (("--stage", "both"), {}, "expected --arch stitched"),
        ((), {"features": "f"}, "--freeze-vision"),
        ((), {"epochs": 0}, "epochs is 0, expected a positive number"),
        ((), {"history": 0}, "history 0"),
        ((), {"history_step": 0}, "history_step is 0 s"),
        (("--freeze-language",), {"lora": 4, "init": "a"}, "leave out --freeze-language"),
    ],
)
def test_settings_that_make_no_sense_are_refused(robot, tmp_path, capsys, words, options, said):
    assert cli(robot, tmp_path / "run", "cross-attention", *words, **options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_used_are_refused(robot, tmp_path, capsys):
    unlabelled = make_dataset(tmp_path / "plain", episodes=3)
    assert cli(robot, tmp_path / "run", "stitched", dataset=unlabelled) == 1
    assert "has no labels; vla-label makes them" in capsys.readouterr().err
    few = make_dataset(tmp_path / "few", episodes=2)
    label(few, Settings())
    assert cli(robot, tmp_path / "run", "stitched", dataset=few) == 1
    assert "2 episodes cannot be split into 3 parts" in capsys.readouterr().err
    other = make_dataset(tmp_path / "other", episodes=3)
    label(other, Settings(mode="global"))
    argv = ["value", "--arch", "stitched", "--out", str(tmp_path / "run"), "--tokenizer"]
    argv += [str(robot / "tokenizer"), "--dataset", str(robot / "data"), str(other)]
    assert main(argv) == 1
    assert "label them alike" in capsys.readouterr().err


def test_one_outcome_alone_is_said(robot, tmp_path, capsys):
    good = make_dataset(tmp_path / "good", episodes=3)
    label(good, Settings())
    assert cli(robot, tmp_path / "run", "cross-attention", dataset=good, steps=1) == 0
    assert "no episode of the training split failed" in capsys.readouterr().err


def test_a_checkpoint_of_the_other_architecture_is_refused(robot, trained, tmp_path, capsys):
    init = trained["stitched"] / "checkpoint"
    assert cli(robot, tmp_path / "run", "cross-attention", init=init) == 1
    assert "is a stitched model, expected a cross-attention one" in capsys.readouterr().err
