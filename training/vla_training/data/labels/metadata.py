# SPDX-License-Identifier: Apache-2.0
"""JSON files of a LeRobot v3 dataset."""

import json
from pathlib import Path
from typing import Any

from vla_training.data.errors import DataError
from vla_training.data.labels.replacement import rewrite

INFO = "meta/info.json"
STATS = "meta/stats.json"


def read_info(root: Path) -> dict[str, Any]:
    """The dataset's ``info.json``.

    Raises:
        DataError: There is none, it is of another version of the format, or there are no
            episodes.
    """
    path = root / INFO
    info = read_json(path)
    if info is None:
        raise DataError(f"{root} is no LeRobot dataset: it has no {INFO}")
    version, episodes, features = map(info.get, ("codebase_version", "total_episodes", "features"))
    if not str(version).startswith("v3."):
        raise DataError(f"{path} is of version {version!r:.20}, expected v3.0")
    if not isinstance(features, dict):
        raise DataError(f"{path} has features {features!r:.20}, expected an object")
    for name, feature in features.items():
        if not isinstance(feature, dict) or not {"dtype", "shape"} <= feature.keys():
            raise DataError(
                f"{path} describes column {name!r:.100} as {feature!r:.100}, "
                "expected a dtype and a shape"
            )
    if not isinstance(episodes, int) or episodes < 1:
        raise DataError(f"{path} counts {episodes!r:.20} episodes, expected at least 1")
    return info


def read_json(path: Path) -> dict[str, Any] | None:
    """An object of JSON; None where there is no such file.

    Raises:
        DataError: It cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file of a dataset."""
    text = json.dumps(value, indent=4, ensure_ascii=False)
    rewrite(path, lambda new: new.write_text(text, encoding="utf-8"))
