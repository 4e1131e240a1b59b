# SPDX-License-Identifier: Apache-2.0
"""Reports of energy models against figures that are derived frame by frame and chunk by chunk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from evaluation_samples import (
    CONFIG,
    FPS,
    JOINTS,
    TASKS,
    make_dataset,
    make_episodes,
    make_model,
    make_policy,
)
from scipy.stats import mannwhitneyu, spearmanr

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_checkpoint import (
    EnergyInterface,
    load_energy_model,
    policy_digest,
    read_energy_checkpoint,
    write_energy_checkpoint,
)
from vla_nodes.models.energy_config import EnergyConfig
from vla_training.data.errors import DataError
from vla_training.energy.energy_data import open_energy_sets
from vla_training.energy.energy_set import collate_energy
from vla_training.energy.energy_source import EnergySource
from vla_training.evaluation.energy_arguments import EnergyArguments
from vla_training.evaluation.energy_checkpoints import open_judges, short_names
from vla_training.evaluation.energy_evaluation import evaluate_energy, negative_chunks
from vla_training.evaluation.evaluate import main

LENGTHS = (20, 12, 15, 19, 14, 17, 11, 16)
SHARES = (0.4, 0.1, 0.5)
SEED, SPLIT_SEED, SAMPLES, STRIDE = 4, 0, 4, 2
KINDS = ["noise 0.5", "noise 1", "noise 3", "shift", "reversed", "joints", "other-task"]


def make_judge(folder, policy, seed=0, changes=None, **options):
    """An energy model with random weights, whose energies depend on all that it sees."""
    torch.manual_seed(seed)
    config = EnergyConfig(CONFIG.language.width, len(JOINTS), hidden=16, heads=2, **options)
    model = EnergyModel(config)
    with torch.no_grad():
        for weight in (model.action_linear.fc2.weight, model.cross.in_proj_weight):
            weight.mul_(8)
    interface = EnergyInterface(
        policy_digest(policy), JOINTS, float(FPS), CONFIG.chunk, SPLIT_SEED, SHARES
    )
    write_energy_checkpoint(folder, model, config, replace(interface, **(changes or {})))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with ``policy``, ``data`` and two energy models. Not to be written to."""
    folder = tmp_path_factory.mktemp("energy")
    policy = make_policy(folder / "policy", make_model())
    make_dataset(folder / "data", make_episodes(LENGTHS))
    make_judge(folder / "plain/checkpoint", policy)
    make_judge(folder / "pooled/checkpoint", policy, 1, pooling="attention", bounded=False)
    options = {"loss": "swap", "tau": 1.0, "negatives": ["noise", "shift"], "seed": 3}
    (folder / "pooled/settings.yaml").write_text(yaml.safe_dump(options))
    return folder


@pytest.fixture(scope="module")
def judges(run):
    return open_judges([run / name / "checkpoint" for name in ("plain", "pooled")], run / "policy")


@pytest.fixture(scope="module")
def frames(run):
    source = EnergySource(
        policy=run / "policy",
        dataset=(run / "data",),
        folder=run / "contexts",
        stride=STRIDE,
        samples=SAMPLES,
        layers=True,
        device="cpu",
        seed=SEED,
    )
    return open_energy_sets(source, SPLIT_SEED, SHARES, ("test",)).test


@pytest.fixture(scope="module")
def results(judges, frames):
    return evaluate_energy(judges, frames, samples=True, layers=True, seed=SEED, batch_size=5)


def call(run, *words, checkpoints=("plain", "pooled"), contexts="contexts"):
    folders = [run / name / "checkpoint" for name in checkpoints]
    given = ["--policy", run / "policy", "--dataset", run / "data", "--contexts", run / contexts]
    told = ["--stride", STRIDE, "--seed", SEED, "--workers", 0, "--device", "cpu"]
    return main(["energy", *map(str, [*folders, *given, *told, *words])])


def energy(model, item, chunk):
    with torch.no_grad():
        return float(model(item.hidden[None], torch.as_tensor(chunk.copy())[None].float()))


def model_of(judge):
    return load_energy_model(judge.checkpoint)


def test_energies_are_those_of_single_chunks_in_single_contexts(judges, frames, results):
    for judge in judges:
        model, scored = model_of(judge), results.scored[judge.name]
        assert list(scored.negatives) == [*KINDS, "layers", "samples"]
        for place in range(len(frames)):
            item = frames[place]
            chunk = item.actions.numpy()
            assert scored.expert[place] == pytest.approx(energy(model, item, chunk), abs=1e-5)
            backwards = scored.negatives["reversed"][place, 0]
            assert backwards == pytest.approx(energy(model, item, chunk[::-1]), abs=1e-5)
            for drawn, found in zip(item.samples, scored.negatives["samples"][place], strict=True):
                far = np.sqrt(np.mean((drawn.numpy() - chunk) ** 2)) >= 0.5
                expected = energy(model, item, drawn.numpy()) if far else np.nan
                assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
        assert np.isfinite(scored.negatives["samples"]).any()


def test_models_are_asked_about_the_same_chunks_and_batches_change_nothing(judges, frames, results):
    again = evaluate_energy(judges[1:], frames, samples=True, layers=True, seed=SEED, batch_size=50)
    name = judges[1].name
    for kind, found in again.scored[name].negatives.items():
        np.testing.assert_allclose(found, results.scored[name].negatives[kind], atol=1e-5)


def test_every_chunk_is_scored_once(judges, frames, results, monkeypatch):
    def counted(model, context, chunks):
        asked.append(len(chunks) * chunks.shape[1])
        return energies(model, context, chunks)

    asked, energies = [], EnergyModel.energies
    monkeypatch.setattr(EnergyModel, "energies", counted)
    evaluate_energy(judges[:1], frames, samples=True, layers=True, seed=SEED)
    layers = results.scored[judges[0].name].negatives["layers"].shape[1]
    assert sum(asked) == len(frames) * (1 + len(KINDS) + layers + SAMPLES)


def test_areas_are_scipys_for_all_frames_and_for_each_task(frames, results):
    tasks = np.array([frames[place].task for place in range(len(frames))])
    assert list(results.tasks) == list(dict.fromkeys(tasks))
    assert set(tasks) == set(TASKS)
    for name, scored in results.scored.items():
        for found, rows in [
            (results.total[name], np.ones(len(tasks), bool)),
            *((results.tasks[task][name], tasks == task) for task in TASKS),
        ]:
            for kind in (*KINDS, "samples"):
                energies = scored.negatives[kind][rows]
                energies = energies[~np.isnan(energies)]
                expert = scored.expert[rows]
                pairs = len(energies) * len(expert)
                assert found[kind].negatives == len(energies)
                if pairs:
                    expected = mannwhitneyu(energies, expert).statistic / pairs
                    assert found[kind].auroc == pytest.approx(expected)


def test_stronger_noise_is_further_away(frames):
    batch = collate_energy([frames[place] for place in range(len(frames))])
    made = negative_chunks(frames, layers=False, far=0.5, seed=SEED)
    assert list(made) == KINDS
    weak, middle, strong = (
        made[kind](batch)[0][:, 0] - batch.actions.numpy() for kind in KINDS[:3]
    )
    np.testing.assert_allclose(middle, 2 * weak, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(strong, 3 * middle, rtol=1e-3, atol=1e-5)
    spread = strong.std(axis=(0, 1)) / frames.chunks.std
    np.testing.assert_allclose(spread, 3.0, rtol=0.15)


def test_the_chunk_that_is_taken_is_the_one_of_lowest_energy(judges, frames, results):
    normalization = frames.normalization.action
    for judge in judges:
        model, taken, own, ranks = model_of(judge), [], [], []
        for place in range(len(frames)):
            item = frames[place]
            drawn, chunk = item.samples.double().numpy(), item.actions.double().numpy()
            energies = [energy(model, item, one) for one in drawn]
            errors = np.square(drawn - chunk).mean((1, 2))
            lowest = int(np.argmin(energies))
            taken.append(errors[lowest])
            restored = normalization.restore(drawn[lowest]) - normalization.restore(chunk)
            own.append(np.square(restored).mean(0))
            ranks.append(spearmanr(energies, errors).statistic)
        figure = results.samples.chosen[judge.name][-1]
        assert figure.count == SAMPLES
        assert figure.rms == pytest.approx(np.sqrt(np.mean(taken)), rel=1e-4)
        assert figure.joints == pytest.approx(np.sqrt(np.mean(own, axis=0)), rel=1e-4)
        within = results.samples.correlations[judge.name].within
        assert within == pytest.approx(np.mean(ranks), abs=1e-3)
    best = results.samples.best[-1].rms
    assert all(best <= one[-1].rms for one in results.samples.chosen.values())
    assert [one.count for one in results.samples.mean] == [1, 2, 4]


def test_a_report_holds_what_was_found_and_the_terminal_shows_it(run, results, tmp_path, capsys):
    out = tmp_path / "report"
    assert call(run, "--samples", SAMPLES, "--layers", "--out", out) == 0
    shown = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert list(report["models"]) == ["plain", "pooled"]
    assert report["checkpoints"]["plain"] == str(run / "plain/checkpoint")
    for name, model in report["models"].items():
        assert list(model["kinds"]) == [*KINDS, "layers", "samples", "mean of all kinds"]
        for kind, figures in model["kinds"].items():
            found = results.total[name][kind]
            assert figures["auroc"] == pytest.approx(found.auroc, abs=1e-6)
            assert figures["interval"] == pytest.approx(found.interval, abs=1e-6)
            assert (f"{found.auroc:.3f}" if found.negatives else " - ") in shown
    assert report["models"]["pooled"]["options"]["negatives"] == ["noise", "shift"]
    assert report["models"]["pooled"]["options"]["tau"] == 1.0
    assert "seed" not in report["models"]["pooled"]["options"]
    assert report["models"]["plain"]["options"]["pooling"] == "mean"
    assert set(report["tasks"]) == set(TASKS)
    assert report["frames"] == sum(task["frames"] for task in report["tasks"].values())
    assert report["samples"] == SAMPLES
    chosen = report["choices"]["chosen"]["plain"]
    assert [figure["count"] for figure in chosen] == [1, 2, 4]
    for text in (*KINDS, *JOINTS, *TASKS, "plain", "pooled", "attention", "noise, shift"):
        assert text in shown
    assert {file.name for file in out.iterdir()} == {
        *("report.json", "areas.png", "energies.png", "samples.png")
    }


def test_without_samples_there_is_no_best_of_k_and_no_picture_of_one_from_before(
    run, tmp_path, capsys
):
    (tmp_path / "samples.png").write_bytes(b"from before")
    assert call(run, "--samples", 0, "--out", tmp_path, checkpoints=("plain",)) == 0
    assert "left out" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["choices"] is None
    assert list(report["models"]) == ["plain/checkpoint"]
    assert not (tmp_path / "samples.png").exists()


def test_contexts_lie_beside_the_first_checkpoint_if_nothing_is_said(run, tmp_path, capsys):
    folder = make_judge(tmp_path / "new/checkpoint", run / "policy")
    told = ["--policy", run / "policy", "--dataset", run / "data", "--stride", 6, "--samples", 0]
    assert main(["energy", *map(str, [folder, *told, "--workers", 0, "--device", "cpu"])]) == 0
    assert (tmp_path / "new/contexts").is_dir()
    capsys.readouterr()


def refusal(capsys):
    said = capsys.readouterr().err.splitlines()
    return said[-1]


def test_the_energy_model_of_another_policy_is_refused(run, tmp_path, capsys):
    make_judge(tmp_path / "other/checkpoint", run / "policy", changes={"policy": "0" * 64})
    assert call(run, checkpoints=("plain", tmp_path / "other")) == 1
    assert "was trained with another policy" in refusal(capsys)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split_seed": 7}, "has split_seed 7, expected 0, as"),
        ({"shares": (0.6, 0.2, 0.2)}, "has shares (0.6, 0.2, 0.2), expected (0.4, 0.1, 0.5)"),
    ],
)
def test_models_of_other_splits_are_not_set_side_by_side(run, tmp_path, capsys, changes, said):
    make_judge(tmp_path / "other/checkpoint", run / "policy", changes=changes)
    assert call(run, checkpoints=("plain", tmp_path / "other")) == 1
    assert said in refusal(capsys)


def test_a_model_of_other_joints_than_the_dataset_has_is_refused(run, tmp_path, capsys):
    other = {"action_names": ("a", "b", "c")}
    make_judge(tmp_path / "other/checkpoint", run / "policy", changes=other)
    assert call(run, "--samples", 0, checkpoints=(tmp_path / "other",)) == 1
    assert "the policy with these datasets has action_names ('pan'" in refusal(capsys)


def test_a_part_that_the_training_left_empty_is_refused(run, tmp_path, capsys):
    shares = {"shares": (0.9, 0.1, 0.0)}
    make_judge(tmp_path / "other/checkpoint", run / "policy", changes=shares)
    assert call(run, "--samples", 0, checkpoints=(tmp_path / "other",)) == 1
    assert "was trained without a test part; name another" in refusal(capsys)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stride": 0}, "--stride is 0, expected at least 1"),
        ({"samples": -1}, "--samples is -1, expected at least 0"),
        ({"batch_size": 0}, "--batch-size is 0, expected at least 1"),
        ({"far": 0.0}, "--far is 0.0, expected a number above 0"),
        ({"far": float("nan")}, "--far is nan, expected a number above 0"),
        ({"dataset": ()}, "--dataset names no folder, expected one at least"),
        ({"checkpoints": ()}, "0 checkpoints, expected from 1 to 8"),
        ({"checkpoints": (Path("a"),) * 2}, "is named twice, expected every checkpoint once"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes, said):
    given = {"checkpoints": (Path("a"),), "policy": Path("p"), "dataset": (Path("d"),)}
    with pytest.raises(DataError, match=said):
        EnergyArguments(**given | changes)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a/checkpoint"], ["a/checkpoint"]),
        (["runs/a/checkpoint", "runs/b/checkpoint"], ["a", "b"]),
        (["x/a/checkpoint", "y/a/checkpoint"], ["x", "y"]),
        (["a/checkpoint", "a/best"], ["checkpoint", "best"]),
        (["a/one", "b/one", "b/two"], ["a/one", "b/one", "b/two"]),
        (["x/y/a", "x/y/b/a"], ["y", "b"]),
    ],
)
def test_names_are_as_short_as_they_can_be_told_apart(folders, names):
    assert short_names(list(map(Path, folders))) == names


def test_energies_that_are_not_finite_are_refused(run, frames, tmp_path):
    folder = make_judge(tmp_path / "wild/checkpoint", run / "policy", bounded=False)
    checkpoint = read_energy_checkpoint(folder)
    model = load_energy_model(checkpoint)
    with torch.no_grad():
        model.prediction_head.fc2.weight.mul_(1e38)
        model.prediction_head.fc2.weight.mul_(1e3).clamp_(-3e38, 3e38)
    write_energy_checkpoint(folder, model, checkpoint.config, checkpoint.interface)
    judges = open_judges([folder], run / "policy")
    with pytest.raises(DataError, match="output of the head of the energy model"):
        evaluate_energy(judges, frames, samples=False, layers=False)
