# SPDX-License-Identifier: Apache-2.0
"""What an energy model was calibrated to, on disk and back."""

import json
from dataclasses import replace

import pytest
import torch
from energy_reference import SMALL, make_energy_batch, make_energy_model
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.models.energy_calibration import EnergyCalibration, Threshold
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.prompts import actor_prompt

REACH, CUPS = "reach", "Tür öffnen 开门"
CALIBRATION = EnergyCalibration(
    epsilon=0.05,
    pooled=Threshold(1.25, 700),
    tasks={REACH: Threshold(0.875, 400), CUPS: Threshold(1.5, 300)},
    quantiles=tuple(0.1 + 0.02 * k for k in range(101)),
)


@pytest.fixture
def file(tmp_path):
    CALIBRATION.write(tmp_path)
    return tmp_path / "calibration.json"


def test_what_is_written_is_read(file):
    assert EnergyCalibration.read(file.parent) == CALIBRATION
    assert [path.name for path in file.parent.iterdir()] == ["calibration.json"]


numbers = st.floats(-1e6, 1e6)
thresholds = st.builds(Threshold, numbers, st.integers(1, 1 << 40))


@settings(max_examples=20, deadline=None)
@given(
    epsilon=st.floats(0, 1, exclude_min=True, exclude_max=True),
    pooled=thresholds,
    tasks=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), thresholds),
    quantiles=st.lists(numbers, min_size=101, max_size=101).map(sorted).map(tuple),
)
def test_whatever_is_written_is_read(tmp_path_factory, epsilon, pooled, tasks, quantiles):
    folder = tmp_path_factory.mktemp("calibration")
    calibration = EnergyCalibration(epsilon, pooled, tasks, quantiles)
    calibration.write(folder)
    assert EnergyCalibration.read(folder) == calibration


def test_as_many_tasks_as_large_datasets_have_are_read(tmp_path):
    tasks = {f"put thing {number} where it belongs": Threshold(1.0, 19) for number in range(20_000)}
    calibration = replace(CALIBRATION, tasks=tasks)
    calibration.write(tmp_path)
    assert EnergyCalibration.read(tmp_path) == calibration


def test_a_task_has_its_own_threshold_or_the_pooled_one():
    assert CALIBRATION.threshold(REACH) == 0.875
    assert CALIBRATION.threshold(CUPS) == 1.5
    assert CALIBRATION.threshold("fly") == CALIBRATION.threshold("") == 1.25


def test_texts_that_make_the_same_prompts_have_one_threshold():
    calibration = replace(CALIBRATION, tasks={"clear the table": Threshold(0.25, 50)})
    for text in ("clear the table", "clear_the_table", " clear the table\n"):
        assert actor_prompt(text, [3]) == actor_prompt("clear the table", [3])
        assert calibration.threshold(text) == 0.25
    assert calibration.threshold("clear the tables") == 1.25


@pytest.mark.parametrize(
    ("pooled", "tasks", "words"),
    [
        (2.09, {REACH: 2.09}, None),
        (2.0999, {}, "for tasks without a threshold of their own: "),
        (3.0, {REACH: 1.0}, "for tasks without a threshold of their own: "),
        (1.0, {REACH: 2.1, CUPS: 1.0}, f"for '{REACH}': "),
        (2.1, {REACH: 2.1}, f"for '{REACH}', tasks without a threshold of their own: "),
        (1.0, dict.fromkeys("abcde", 2.1), "for 'a', 'b', 'c' and 2 more: "),
    ],
)
def test_a_threshold_that_no_energy_can_exceed_is_told_with_its_tasks(pooled, tasks, words):
    own = {task: Threshold(energy, 400) for task, energy in tasks.items()}
    calibration = replace(CALIBRATION, pooled=Threshold(pooled, 700), tasks=own)
    expected = words and f"no chunk can be rejected {words}the threshold is where energies end"
    assert calibration.doubts(SMALL).startswith(expected or "")
    assert bool(calibration.doubts(SMALL)) == bool(words)
    assert not calibration.doubts(replace(SMALL, bounded=False))


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_model_whose_energies_are_all_as_high_as_they_get_is_one_that_rejects_nothing(steps):
    model = make_energy_model()
    with torch.no_grad():
        model.prediction_head.fc2.bias.fill_(1e4)
        hidden, ignore, actions = make_energy_batch(steps=steps)
        energies = model.swapped(model.context(hidden, ignore), actions)
    assert energies.max() == energies.min()
    threshold = Threshold(float(energies.max()), 12)
    calibration = replace(CALIBRATION, pooled=threshold, tasks={})
    assert "no chunk can be rejected" in calibration.doubts(model.config)


def test_a_model_that_says_the_same_of_all_expert_chunks_is_told():
    flat = replace(CALIBRATION, quantiles=(0.7,) * 100 + (0.7 + 1e-6,))
    for config in (SMALL, replace(SMALL, bounded=False)):
        words = "no chunk is told from another: all of the calibration have energy 0.7"
        assert flat.doubts(config) == words
    # The lowest energy there is, of all good chunks, says nothing against a model.
    assert not replace(flat, quantiles=(0.1,) * 100 + (0.1 + 1e-6,)).doubts(SMALL)


HUGE = 10**400  # a whole number in JSON, and no float
UPWARDS = list(range(101))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epsilon": ...}, "epsilon is missing"),
        ({"epsilon": 0}, "epsilon is 0, expected a number above 0"),
        ({"epsilon": 1}, "epsilon is 1, expected a number between 0 and 1"),
        ({"epsilon": "0.05"}, "epsilon is '0.05', expected a number above 0"),
        ({"epsilon": float("nan")}, "epsilon is nan, expected a number above 0"),
        ({"quantiles": ...}, "quantiles is None, expected 101 finite numbers in ascending order"),
        ({"quantiles": UPWARDS[1:]}, r"quantiles is \[1, .*, expected 101 finite numbers"),
        ({"quantiles": UPWARDS[::-1]}, r"quantiles is \[100, .*, expected 101 finite numbers"),
        ({"quantiles": [*UPWARDS[1:], HUGE]}, r"quantiles is \[1, .*, expected 101 finite"),
        ({"quantiles": [*UPWARDS[1:], float("inf")]}, r"quantiles is \[1, .*, expected 101 fin"),
        ({"quantiles": [False, *UPWARDS[1:]]}, r"quantiles is \[False, .*, expected 101 finite"),
        ({"pooled": 1.25}, "pooled is 1.25, expected an object"),
        ({"pooled": {"count": 5}}, "pooled.energy is None, expected a finite number"),
        ({"pooled": {"energy": HUGE, "count": 5}}, "pooled.energy is 1000.*, expected a finite"),
        ({"pooled": {"energy": float("nan"), "count": 5}}, "pooled.energy is nan, expected a fin"),
        ({"pooled": {"energy": 1.0}}, "pooled.count is missing"),
        ({"pooled": {"energy": 1.0, "count": 0}}, "pooled.count is 0, expected a whole number"),
        ({"pooled": {"energy": 1.0, "count": 1, "n": 2}}, "pooled.n is 2, expected no such key"),
        ({"tasks": []}, r"tasks is \[\], expected an object"),
        ({"tasks": {REACH: 1.0}}, "tasks.reach is 1.0, expected an object"),
        ({"tasks": {REACH: {"energy": "1"}}}, "tasks.reach.energy is '1', expected a finite"),
        ({"date": "today"}, "date is 'today', expected no such key"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(file, changes, words):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    with pytest.raises(CheckpointError, match=rf"calibration\.json: {words}") as caught:
        EnergyCalibration.read(file.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_file_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"calibration\.json (is no JSON|holds a list|cannot be read)"
    ):
        EnergyCalibration.read(file.parent)
