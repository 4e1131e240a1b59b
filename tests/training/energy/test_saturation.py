# SPDX-License-Identifier: Apache-2.0
"""Thresholds that no energy exceeds are refused, or named where they are a few of several."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration_samples import EPSILON, calibrate, make_checkpoint, make_run

from vla_nodes.models.energy_calibration import CALIBRATION, EnergyCalibration, Threshold
from vla_nodes.models.energy_checkpoint import (
    load_energy_model,
    read_energy_checkpoint,
    write_energy_checkpoint,
)
from vla_nodes.models.energy_config import EnergyConfig
from vla_training.data.errors import DataError
from vla_training.energy.calibration_report import make_report, print_report
from vla_training.energy.conformal import ExpertEnergies, check_rejects

CONFIG = EnergyConfig(4, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def raised(run, folder, by, bounded=True):
    """An energy model whose head says so much more of every chunk."""
    checkpoint = read_energy_checkpoint(make_checkpoint(run, folder))
    model = load_energy_model(checkpoint)
    with torch.no_grad():
        model.prediction_head.fc2.bias.add_(by)
    config = replace(checkpoint.config, bounded=bounded)
    write_energy_checkpoint(folder, model, config, checkpoint.interface)
    return folder


def test_a_model_whose_expert_energies_are_at_the_top_is_not_calibrated(run, tmp_path, capsys):
    flat = raised(run, tmp_path / "run" / "checkpoint", 100.0)
    assert calibrate(run, flat) == 1
    out, err = capsys.readouterr()
    assert "no energy of this model is above 2.1: no chunk would ever be rejected" in err
    assert "written" not in out
    assert not (flat / CALIBRATION).exists()


def test_a_model_that_is_not_bounded_has_no_top(run, tmp_path, capsys):
    high = raised(run, tmp_path / "run" / "checkpoint", 100.0, bounded=False)
    assert calibrate(run, high, "--out", str(tmp_path / "out")) == 0
    assert read_energy_checkpoint(high).calibration.pooled.energy > 50.0
    assert "ever rejected" not in capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["pooled"]["rejects"]


def test_the_flat_part_begins_where_the_sigmoid_tells_nothing_apart():
    heads = torch.tensor([0.0, 10.0, 15.0, 16.0, 100.0])
    energies = 2.0 * torch.sigmoid(0.5 * heads) + 0.1
    assert (energies >= CONFIG.saturated).tolist() == [False, False, False, True, True]
    assert EnergyConfig(4, 2, bounded=False).saturated == float("inf")


def calibration(pooled, **tasks):
    thresholds = {task: Threshold(energy, 40) for task, energy in tasks.items()}
    quantiles = tuple(np.linspace(0, 1, 101).tolist())
    return EnergyCalibration(0.1, Threshold(pooled, 80), thresholds, quantiles)


def test_one_threshold_below_the_top_is_enough():
    check_rejects(calibration(2.1, lift=1.3, push=2.1), CONFIG)
    check_rejects(calibration(1.9, lift=2.1), CONFIG)
    with pytest.raises(DataError, match=r"all thresholds would be 2\.0995 or more, and no energy"):
        check_rejects(calibration(2.1, lift=2.0995), CONFIG)


def test_tasks_of_which_nothing_is_rejected_or_that_are_judged_by_all_are_named(capsys):
    tasks = np.array(["lift"] * 40 + ["push"] * 40 + ["wipe [red]"] * 3, object)
    experts = ExpertEnergies(np.full(83, 1.0), tasks, np.arange(83) // 4)
    report = make_report(calibration(1.9, lift=1.3, push=2.1), experts, None, CONFIG.saturated)
    assert {task: one.rejects for task, one in report.tasks.items()} == {
        **{"lift": True, "push": False, "wipe [red]": True}
    }
    print_report(report)
    lines = capsys.readouterr().out.splitlines()
    few = "wipe [red]: 3 chunks, and an own threshold takes 9: judged by that of all"
    top = "push: no chunk is ever rejected, expert chunks have the highest energy there is"
    assert [
        line.strip() for line in lines if line.startswith(("lift:", "push:", "wipe [red]:"))
    ] == [
        top,
        few,
    ]
    print_report(make_report(calibration(2.1, lift=1.3), experts, None, CONFIG.saturated))
    assert "all: no chunk is ever rejected" in capsys.readouterr().out


def test_a_task_with_too_few_chunks_is_named_by_the_command(run, tmp_path, capsys):
    checkpoint = make_checkpoint(run, tmp_path / "run" / "checkpoint")
    assert calibrate(run, checkpoint, epsilon=EPSILON) == 0
    out = capsys.readouterr().out
    assert out.count("14 chunks, and an own threshold takes 16: judged by that of all") == 1
    assert calibrate(run, checkpoint, epsilon=0.3) == 0
    assert "judged by that of all" not in capsys.readouterr().out
