# SPDX-License-Identifier: Apache-2.0
"""From the simulated arm through the nodes into a dataset, held against what was recorded."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset
from vla_interfaces.action import ExecuteTask

from vla_nodes.bringup.graph import BringupOptions, find_contract
from vla_training.data.checks import check
from vla_training.data.conversion import convert

SEEDS = 3


@pytest.mark.slow
def test_recorded_demonstrations_become_a_dataset_that_equals_them(
    launch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    bags, out = tmp_path / "bags", tmp_path / "demonstrations"
    bags.mkdir()
    with launch(BringupOptions(record=str(bags))) as graph:
        graph.client.wait_until_ready()
        for seed in range(SEEDS):
            graph.client.reset_simulation(seed, cubes=1 + seed % 2)
            # The arm was put to its start, and the commander takes it back to where it held.
            graph.client.seconds_to_rest(time.monotonic())
            result = graph.client.execute("clear the table", time_limit=60.0)
            assert result.outcome == ExecuteTask.Result.OUTCOME_SUCCESS, result.message
            # The next table must not be laid into this recording.
            graph.client.wait_until(
                lambda count=seed + 1: len(list(bags.glob("*/metadata.yaml"))) == count,
                10.0,
                "the recording is closed",
            )
    contract = str(find_contract("sim_arm"))
    report = tmp_path / "report.json"
    arguments = [str(bags), "--contract", contract, "--out", str(out), "--report", str(report)]
    assert convert.main(arguments) == 0
    findings = tmp_path / "findings.json"
    arguments = ["dataset", str(out), "--contract", contract, "--against", str(bags)]
    assert check.main([*arguments, "--json", str(findings)]) == 0, findings.read_text()
    for bag in sorted(bags.iterdir()):
        assert check.main(["bag", str(bag), "--contract", contract]) == 0

    print(json.dumps(json.loads(report.read_text())["totals"], indent=1))
    print(findings.read_text()[-3000:])
    dataset = LeRobotDataset("demonstrations", root=out, video_backend="pyav")
    assert dataset.num_episodes == SEEDS
    assert set(dataset.meta.tasks.index) == {"clear the table"}
    item = dataset[dataset.num_frames // 2]
    assert item["observation.images.front"].shape == (3, 96, 96)
    assert item["subtask"].startswith("put the ")
    assert item["outcome"] == 1
    actions = np.stack(dataset.hf_dataset["action"])
    assert (np.ptp(actions, axis=0) > 0.01).all()
