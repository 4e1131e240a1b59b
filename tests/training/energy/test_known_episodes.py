# SPDX-License-Identifier: Apache-2.0
"""Energy models say which recordings they were trained on, and are held against no such."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from calibration_samples import (
    FAILED,
    LENGTHS,
    SEED,
    SHARES,
    calibrate,
    make_checkpoint,
    make_run,
)
from energy_samples import source
from evaluation_samples import make_dataset, make_episodes

from vla_nodes.models.energy_calibration import CALIBRATION
from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.training_set import TrainingSet
from vla_training.energy.known_episodes import known_episodes
from vla_training.energy.split_frames import SplitFrames
from vla_training.evaluation.evaluate import main as evaluate

GROWN = 22  # episodes, the first ten of them as before
SPLIT = split_episodes(len(LENGTHS), SEED, SHARES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(run):
    """What the training of a model writes down: digests of its episodes."""
    return SplitFrames.open(source(run, run / "contexts"), SEED, SHARES).known(["training"])


@pytest.fixture
def checkpoint(run, trained, tmp_path):
    return make_checkpoint(run, tmp_path / "run" / "checkpoint", episodes=trained)


def digest(episode):
    content = np.float32(episode.state).tobytes() + np.float32(episode.action).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def test_what_is_written_down_are_digests_of_the_training_episodes(trained):
    episodes = make_episodes(LENGTHS)
    assert trained == tuple(sorted(digest(episodes[number]) for number in SPLIT.train))
    assert len(set(trained)) == len(SPLIT.train)


def test_copies_are_known_wherever_they_lie_and_whatever_their_texts(trained, tmp_path):
    episodes = [replace(one, task="another") for one in make_episodes(LENGTHS)]
    some = [episodes[number] for number in (1, *SPLIT.train)]
    copies = TrainingSet(make_dataset(tmp_path / "data", some), 1).table
    digests = [known_episodes([(copies, [number])])[0] for number in range(len(some))]
    assert digests[0] == digest(episodes[1])
    assert sorted(digests[1:]) == list(trained)
    assert known_episodes([(copies, [1, 2]), (copies, [2, 3])]) == tuple(sorted(digests[1:4]))


def test_the_datasets_of_its_training_calibrate_it_without_a_word(run, checkpoint, capsys):
    assert calibrate(run, checkpoint) == 0
    assert (checkpoint / CALIBRATION).exists()
    assert "trained on" not in capsys.readouterr().err


def test_a_dataset_that_has_grown_calibrates_nothing_that_was_trained_on_it(
    run, checkpoint, tmp_path, capsys
):
    lengths = (*LENGTHS, *[9] * (GROWN - len(LENGTHS)))
    more = make_dataset(tmp_path / "more", make_episodes(lengths), failed=FAILED)
    split = split_episodes(GROWN, SEED, SHARES)
    known = len({*split.validation, *split.test} & {*SPLIT.train})
    held = len(split.validation) + len(split.test)
    assert 0 < known < held
    words = ("--dataset", str(more), "--contexts", str(tmp_path / "contexts"))
    assert calibrate(run, checkpoint, *words) == 1
    said = capsys.readouterr().err.splitlines()
    assert f"{checkpoint} was trained on {known} of the {held} episodes" in said[-1]
    assert not any("the policy saw" in line for line in said)
    assert not (checkpoint / CALIBRATION).exists()


def test_other_recordings_calibrate(run, checkpoint, tmp_path, capsys):
    other = make_episodes(tuple(length + 1 for length in LENGTHS))
    data = make_dataset(tmp_path / "other", other)
    words = ("--dataset", str(data), "--contexts", str(tmp_path / "contexts"))
    assert calibrate(run, checkpoint, *words) == 0
    assert "trained on" not in capsys.readouterr().err


def test_a_checkpoint_that_does_not_say_calibrates_with_a_note(run, tmp_path, capsys):
    silent = make_checkpoint(run, tmp_path / "run" / "checkpoint")
    assert calibrate(run, silent) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "does not say" in line]
    assert len(notes) == 1
    assert notes[0].startswith(f"{silent} does not say which episodes it was trained on")


def test_one_model_of_several_that_knows_the_test_episodes_is_refused(
    run, checkpoint, tmp_path, capsys
):
    episodes = make_episodes(LENGTHS)
    names = tuple(digest(episodes[number]) for number in SPLIT.test[:2])
    other = make_checkpoint(run, tmp_path / "other" / "checkpoint", episodes=names)
    given = ("--policy", run / "policy", "--dataset", run / "data", "--contexts", run / "contexts")
    told = ("--samples", 0, "--workers", 0, "--device", "cpu")

    def status(*words):
        return evaluate(["energy", *map(str, (*words, *given, *told))])

    assert status(checkpoint) == 0
    assert status(checkpoint, other) == 1
    refused = capsys.readouterr().err.splitlines()[-1]
    assert f"{other} was trained on 2 of the {len(SPLIT.test)} episodes" in refused
    assert status(checkpoint, other, "--part", "validation") == 0


def test_what_was_trained_on_is_shown_where_it_is_asked_for(run, checkpoint, capsys):
    given = ("--policy", run / "policy", "--dataset", run / "data", "--contexts", run / "contexts")
    words = ("--part", "training", "--samples", 0, "--workers", 0, "--device", "cpu")
    assert evaluate(["energy", *map(str, (checkpoint, *given, *words))]) == 0
    assert "trained on" not in capsys.readouterr().err
