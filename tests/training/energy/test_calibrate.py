# SPDX-License-Identifier: Apache-2.0
"""``vla-calibrate energy`` from the command line to its files, against loops over frames."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from calibration_samples import (
    EPSILON,
    FAILED,
    SAMPLES,
    calibrate,
    make_checkpoint,
    make_energy_model,
    make_run,
    opened,
)
from safetensors.torch import load_file

from vla_nodes.models.energy_calibration import CALIBRATION, EnergyCalibration, Threshold
from vla_nodes.models.energy_checkpoint import load_energy_model, read_energy_checkpoint
from vla_training.energy import calibration as calibration_module
from vla_training.energy.calibration_plot import plot_energies
from vla_training.energy.calibration_report import make_report, print_report, write_report
from vla_training.energy.conformal import clopper_pearson
from vla_training.energy.scoring import EXPERT, Scores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def calibrated(run):
    """The report, and the energies (energy, task, episode) of validation and test."""
    words = ("--samples", str(SAMPLES), "--layers", "--out", str(run / "out"))
    assert calibrate(run, run / "checkpoint", *words) == 0
    report = json.loads((run / "out" / "report.json").read_text())
    model = make_energy_model()
    sets, energies = opened(run), []
    for frames in (sets.validation, sets.test):
        items = [frames[place] for place in range(len(frames))]
        with torch.no_grad():
            energies.append(
                [
                    (
                        float(model(item.hidden[None], item.actions[None])),
                        item.task,
                        int(frames.chunks.episode[item.row]),
                    )
                    for item in items
                ]
            )
    return report, *energies


@pytest.fixture
def checkpoint(run, tmp_path):
    """One that was not calibrated, alone in its folder."""
    return make_checkpoint(run, tmp_path / "run" / "checkpoint")


def threshold(energies):
    """The smallest one at or below which lie as many as the definition asks for."""
    needed = (len(energies) + 1) * (1 - EPSILON)
    return min(e for e in energies if sum(other <= e for other in energies) >= needed)


def refused(capsys, status):
    assert status == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vla-calibrate: ")
    return error


def test_thresholds_are_those_of_expert_chunks_of_the_validation_part(run, calibrated):
    _, validation, _ = calibrated
    stored = read_energy_checkpoint(run / "checkpoint").calibration
    by_task = {task: [e for e, t, _ in validation if t == task] for _, task, _ in validation}
    counts = {task: len(energies) for task, energies in by_task.items()}
    assert sorted(counts.values()) == [14, 17]  # 16 are needed
    (own,) = (task for task, count in counts.items() if count == 17)
    assert stored.epsilon == EPSILON
    assert stored.pooled.count == 31
    assert stored.pooled.energy == pytest.approx(threshold([e for e, _, _ in validation]), abs=1e-6)
    assert [*stored.tasks] == [own]
    assert stored.tasks[own].count == 17
    assert stored.tasks[own].energy == pytest.approx(threshold(by_task[own]), abs=1e-6)
    levels = np.quantile([e for e, _, _ in validation], np.linspace(0, 1, 101))
    np.testing.assert_allclose(stored.quantiles, levels, atol=1e-6)


def test_failed_episodes_calibrate_and_judge_nothing(calibrated):
    _, validation, test = calibrated
    assert len(FAILED) == 2  # one in each of the two parts of three episodes
    assert {len({episode for _, _, episode in part}) for part in (validation, test)} == {2}


def test_the_report_counts_what_is_rejected_in_the_test_part(run, calibrated):
    report, validation, test = calibrated
    stored = read_energy_checkpoint(run / "checkpoint").calibration
    for task in (None, *report["tasks"]):
        found = report["pooled"] if task is None else report["tasks"][task]
        ours = [one for one in validation if task in (None, one[1])]
        held = [one for one in test if task in (None, one[1])]
        rejected = [e > stored.threshold(t) for e, t, _ in held]
        episodes = sorted({episode for _, _, episode in held})
        shares = [
            np.mean([r for r, one in zip(rejected, held, strict=True) if one[2] == episode])
            for episode in episodes
        ]
        assert found["energy"] == (stored.pooled.energy if task is None else stored.threshold(task))
        assert found["own"] == (task is None or task in stored.tasks)
        assert (found["chunks"], found["episodes"]) == (len(ours), len({one[2] for one in ours}))
        judged = found["test"]
        assert (judged["chunks"], judged["rejected"]) == (len(held), sum(rejected))
        assert judged["by_chunk"] == vars(clopper_pearson(sum(rejected), len(held)))
        assert judged["episodes"] == len(episodes)
        assert judged["touched"] == sum(share > 0 for share in shares)
        assert judged["by_episode"] == pytest.approx(
            vars(clopper_pearson(sum(shares), len(episodes)))
        )
    kinds = ["expert", "noise", "shift", "reversed", "joints", "other-task", "layers", "samples"]
    assert [*report["rejected"]] == kinds
    assert report["rejected"]["expert"]["share"] == report["pooled"]["test"]["by_chunk"]["share"]
    assert report["rejected"]["samples"]["chunks"] <= SAMPLES * len(test)


def test_weights_and_all_else_in_the_checkpoint_stay_as_they_were(run, checkpoint):
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert calibrate(run, checkpoint) == 0
    after = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert set(after) - set(before) == {CALIBRATION}
    assert {name: after[name] for name in before if name.endswith("json")} == {
        name: content for name, content in before.items() if name.endswith("json")
    }
    ours = load_energy_model(read_energy_checkpoint(checkpoint)).state_dict()
    for name, weight in make_energy_model().state_dict().items():
        assert torch.equal(ours[name], weight)
    assert load_file(checkpoint / "model.safetensors").keys() == ours.keys()


def test_calibrating_again_replaces_and_a_refusal_leaves_what_was_there(run, checkpoint, capsys):
    assert calibrate(run, checkpoint) == 0
    strict = read_energy_checkpoint(checkpoint).calibration
    assert calibrate(run, checkpoint, epsilon=0.3) == 0
    lax = read_energy_checkpoint(checkpoint).calibration
    assert lax.pooled.energy < strict.pooled.energy
    assert len(lax.tasks) == 2
    error = refused(capsys, calibrate(run, checkpoint, epsilon=0.01))
    assert "31 expert chunks of 2 episodes to calibrate on, expected at least 99" in error
    assert "0.01: 7 episodes of this length, or an epsilon of 1/32 or more" in error
    assert read_energy_checkpoint(checkpoint).calibration == lax


def test_the_policy_draws_nothing_in_the_validation_part_and_looks_no_further_than_needed(
    run, checkpoint, tmp_path, capsys, calibrated
):
    _, validation, test = calibrated
    fresh = tmp_path / "fresh"  # without contexts
    fresh.mkdir()
    for name in ("policy", "data"):
        (fresh / name).symlink_to(run / name)

    def seen(status, *words, epsilon=EPSILON):
        """How many frames the policy was shown, each time that it was."""
        assert calibrate(fresh, checkpoint, *words, epsilon=epsilon) == status
        found = re.findall(r"the policy saw (\d+) frames", capsys.readouterr().err)
        return list(map(int, found))

    assert seen(1, epsilon=0.01) == [len(validation)]
    assert seen(0) == [len(test)]
    assert seen(0, "--samples", str(SAMPLES), "--layers") == [len(test)]
    assert seen(0, "--samples", str(SAMPLES), "--layers") == []


def test_another_policy_and_a_policy_that_changed_since_are_refused(
    run, checkpoint, tmp_path, capsys
):
    changed = tmp_path / "moved"
    changed.mkdir()
    shutil.copytree(run / "policy", changed / "policy")
    (changed / "data").symlink_to(run / "data")
    assert calibrate(changed, checkpoint) == 0  # the same, elsewhere
    stored = (checkpoint / CALIBRATION).read_bytes()
    weights = changed / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    error = refused(capsys, calibrate(changed, checkpoint))
    assert f"{checkpoint} was trained with another policy than {changed / 'policy'}" in error
    assert (checkpoint / CALIBRATION).read_bytes() == stored


def test_a_checkpoint_that_is_replaced_meanwhile_stays_as_it_is(
    run, checkpoint, capsys, monkeypatch
):
    def score(*words):
        make_checkpoint(run, checkpoint)  # as a training that goes on does
        return scored(*words)

    scored = calibration_module.score
    monkeypatch.setattr(calibration_module, "score", score)
    assert "was replaced while it was read" in refused(capsys, calibrate(run, checkpoint))
    assert not (checkpoint / CALIBRATION).exists()


def test_without_a_test_part_nothing_is_promised(run, tmp_path, capsys):
    bare = make_checkpoint(run, tmp_path / "run" / "checkpoint", shares=(0.4, 0.6, 0.0))
    assert calibrate(run, bare, "--out", str(tmp_path / "out")) == 0
    assert "no test part: nothing says how many" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["pooled"]["test"] is None
    assert report["rejected"] == {}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        ({"shares": (0.5, 0.0, 0.5)}, (), "trained without a validation part"),
        ({"fps": 30.0}, (), "fps 10.0, expected 30.0"),
        ({"chunk": 4}, (), "chunk 8, expected 4"),
        ({"action_names": ("pan", "lift", "jaw")}, (), "'jaw'"),
        ({}, ("--epsilon", "0"), "--epsilon is 0.0, expected a share between 0 and 1"),
        ({}, ("--epsilon", "1"), "--epsilon is 1.0, expected"),
        ({}, ("--epsilon", "nan"), "--epsilon is nan, expected"),
        ({}, ("--stride", "0"), "--stride is 0, expected at least 1"),
        ({}, ("--samples", "-1"), "--samples is -1, expected at least 0"),
        ({}, ("--batch-size", "0"), "--batch-size is 0, expected at least 1"),
        ({}, ("--dataset",), "--dataset names no folder"),
        ({}, ("--dataset", "/nowhere"), "/nowhere"),
        ({}, ("--policy", "/nowhere"), "/nowhere holds no checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(run, tmp_path, capsys, changes, words, said):
    other = make_checkpoint(run, tmp_path / "run" / "checkpoint", **changes)
    assert said in refused(capsys, calibrate(run, other, *words))
    assert not (other / CALIBRATION).exists()


def test_a_folder_that_is_no_energy_model_is_refused(run, capsys):
    assert "this is no energy model" in refused(capsys, calibrate(run, run / "policy"))
    assert "is no folder" in refused(capsys, calibrate(run, run / "no" / "such"))


def test_a_gpu_that_is_not_there_is_refused(run, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ("--device", "cuda")
    assert "finds no such device" in refused(capsys, calibrate(run, run / "checkpoint", *words))


def synthetic(energies, **kinds):
    """Scores of two episodes of one task."""
    count = len(energies)
    found = {EXPERT: energies, **kinds}
    return Scores(
        {kind: np.asarray(one, np.float32).reshape(count, -1) for kind, one in found.items()},
        np.array(["tidy up"] * count, object),
        np.arange(count) * 2 // count,
    )


def calibration(pooled, tasks=()):
    tasks = {f"task {place}": Threshold(energy, 40) for place, energy in enumerate(tasks)}
    return EnergyCalibration(0.1, Threshold(pooled, 40), tasks, tuple(np.linspace(0, 1, 101)))


def test_kinds_of_which_there_are_no_chunks_have_no_share(tmp_path, capsys):
    scores = synthetic(
        np.linspace(0.0, 1.0, 20),
        noise=[[0.9, 1.1, np.nan]] * 20,
        shift=[np.nan] * 20,
    )
    report = make_report(calibration(0.85), scores.experts, scores)
    assert vars(report.rejected["expert"]) == {"chunks": 20, "share": 3 / 20}
    assert vars(report.rejected["noise"]) == {"chunks": 40, "share": 1.0}
    assert vars(report.rejected["shift"]) == {"chunks": 0, "share": None}
    print_report(report)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["noise", "40", "100.0%"] in rows
    assert ["shift", "0", "-"] in rows
    write_report(tmp_path, {}, report, scores)
    assert (tmp_path / "energies.png").exists()


def test_a_test_part_that_is_unlike_the_validation_part_is_pointed_out(capsys):
    scores = synthetic(np.linspace(0.0, 1.0, 80))
    print_report(make_report(calibration(0.5), scores.experts, scores))
    assert "more than 10.0%" not in capsys.readouterr().out  # two episodes say too little
    many = Scores(scores.energies, scores.tasks, np.arange(80) // 2)
    print_report(make_report(calibration(0.5), many.experts, many))
    assert "more than 10.0% of the expert chunks of the test part are" in capsys.readouterr().out


def test_hostile_and_many_tasks_keep_to_the_table(capsys):
    energies = np.linspace(0.0, 1.0, 40)
    tasks = np.array(["\x1b[31mred\n\u202e", "long " * 100, *map(str, range(38))], object)
    experts = Scores({EXPERT: energies[:, None]}, tasks, np.arange(40))
    print_report(make_report(calibration(0.5), experts.experts, experts))
    out = capsys.readouterr().out
    assert "\x1b[31m" not in out
    assert "\u202e" not in out
    assert max(map(len, out.splitlines())) <= 160
    assert "and 20 more tasks" in out


def columns(page, colour, most=1):
    """Of a page, those in which at least so many pixels have a colour."""
    alike = np.abs(page.astype(int) - np.array(colour)).max(axis=-1) < 12
    return np.flatnonzero(alike.sum(axis=0) >= most)


def test_the_plot_shows_both_kinds_and_the_thresholds_between_them(tmp_path):
    rng = np.random.default_rng(0)
    energies = {"expert": rng.normal(0.5, 0.1, 400), "noise": rng.normal(1.5, 0.1, 400)}
    plot_energies(tmp_path / "page.png", energies, {"expert": 0.05, "noise": 1.0}, 1.0, [0.9, 1.1])
    page = cv2.imread(str(tmp_path / "page.png"))[:-60, :, ::-1]  # without the legend
    expert, noise = columns(page, (0, 0x72, 0xB2)), columns(page, (0xE6, 0x9F, 0))
    pooled = columns(page, (0x2B, 0x2F, 0x36), most=60)
    assert 20 < expert.max() < pooled.min() <= pooled.max() < noise.min()
    assert pooled.max() - pooled.min() < 4
    assert [file.name for file in tmp_path.iterdir()] == ["page.png"]


def test_energies_that_are_all_the_same_are_drawn(tmp_path):
    same = {"expert": np.full(9, 2.1), "noise": np.full(9, 2.1)}
    plot_energies(tmp_path / "page.png", same, {"expert": 0.0, "noise": 0.0}, 2.1, [])
    assert (tmp_path / "page.png").stat().st_size > 5000
