# SPDX-License-Identifier: Apache-2.0
import pytest

from vla_training.data.errors import DataError
from vla_training.data.loading.episode_split import split_episodes
from vla_training.evaluation.chosen_episodes import chosen_episodes
from vla_training.recipes.errors import TrainingError


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "run" / "checkpoint"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [("all", [0, 1, 2, 3, 4]), ("3", [3]), ("4,0, 2,0", [0, 2, 4])],
)
def test_episodes_are_chosen_by_number(checkpoint, words, expected):
    assert chosen_episodes(words, 5, checkpoint) == expected


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_split_is_that_of_the_training(checkpoint, part):
    default = split_episodes(50, 0, (0.8, 0.1, 0.1))
    assert chosen_episodes(f"split:{part}", 50, checkpoint) == list(getattr(default, part))
    settings = "mode: joint\nsplit_seed: 7\nvalidation: 0.2\ntest: 0.3\n"
    (checkpoint.parent / "settings.yaml").write_text(settings)
    trained = split_episodes(50, 7, (0.5, 0.2, 0.3))
    assert chosen_episodes(f"split:{part}", 50, checkpoint) == list(getattr(trained, part))


def test_a_part_that_training_left_empty_is_refused(checkpoint):
    (checkpoint.parent / "settings.yaml").write_text("validation: 0.0\n")
    with pytest.raises(DataError, match="split:validation has no episode"):
        chosen_episodes("split:validation", 50, checkpoint)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("split:dev", "split:dev, expected all"),
        ("", "expected all"),
        ("1,two", "1,two, expected all"),
        ("2,5", "names 5, the dataset has 0 to 4"),
        ("-1", "names -1, the dataset has 0 to 4"),
    ],
)
def test_words_that_name_no_episode_are_refused(checkpoint, words, said):
    with pytest.raises(DataError, match=said):
        chosen_episodes(words, 5, checkpoint)


@pytest.mark.parametrize("settings", ["validation: much\n", "split_seed: 1.5\n", "[1, 2]\n"])
def test_settings_that_say_no_split_are_refused(checkpoint, settings):
    path = checkpoint.parent / "settings.yaml"
    path.write_text(settings)
    with pytest.raises((DataError, TrainingError), match=str(path)):
        chosen_episodes("split:test", 50, checkpoint)
