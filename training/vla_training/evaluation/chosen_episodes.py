# SPDX-License-Identifier: Apache-2.0
"""Which episodes an evaluation is asked for."""

from pathlib import Path

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.loading.episode_split import Split, split_episodes
from vla_training.recipes.settings_file import SETTINGS, read_settings

_EXPECTED = "expected all, split:train, split:validation, split:test, or numbers such as 0,3,7"


def chosen_episodes(words: str, count: int, checkpoint: Path) -> list[int]:
    """Episodes by words of the command line.

    Args:
        words: ``all``, a part of the split with ``split:`` before its name, or numbers with
            commas between them.
        count: Episodes in the dataset.
        checkpoint: Its folder; the split is the one that its training took.

    Raises:
        DataError: The words say nothing, or there is no such episode.
        TrainingError: The settings of the training cannot be read.
    """
    if words == "all":
        return list(range(count))
    if words in ("split:train", "split:validation", "split:test"):
        part = words.removeprefix("split:")
        chosen = list(getattr(training_split(checkpoint, count), part))
        if not chosen:
            raise DataError(f"{words} has no episode, as the training wanted; name others")
        return chosen
    try:
        chosen = sorted({int(number) for number in words.split(",")})
    except ValueError:
        raise DataError(f"--episodes is {shown(words)}, {_EXPECTED}") from None
    if chosen[0] < 0 or chosen[-1] >= count:
        outside = chosen[0] if chosen[0] < 0 else chosen[-1]
        raise DataError(f"--episodes names {outside}, the dataset has 0 to {count - 1}")
    return chosen


def training_split(checkpoint: Path, count: int) -> Split:
    """The split by the settings beside a checkpoint; without them, that of default settings."""
    path = checkpoint.resolve().parent / SETTINGS
    settings = read_settings(path) if path.is_file() else {}
    seed = settings.get("split_seed", 0)
    validation, test = (settings.get(part, 0.1) for part in ("validation", "test"))
    if not isinstance(seed, int) or not all(isinstance(s, int | float) for s in (validation, test)):
        raise DataError(f"{path}: split_seed, validation and test are to be numbers")
    return split_episodes(count, seed, (1.0 - validation - test, validation, test))
