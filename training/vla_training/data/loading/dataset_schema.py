# SPDX-License-Identifier: Apache-2.0
"""The schema of a dataset, whoever made it, out of its ``info.json``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import INFO
from vla_training.data.schema import ACTION, STATE, DatasetSchema, image_key


def dataset_schema(
    root: Path, info: Mapping[str, Any], cameras: Sequence[str] | None
) -> DatasetSchema:
    """What the items of a dataset have in common.

    Args:
        root: Of the dataset.
        info: Its ``info.json``.
        cameras: Names in the order wanted; None for all, in the dataset's order.

    Raises:
        DataError: It lacks something, or holds pictures that are no camera's by their name.
    """
    features, fps = info["features"], info.get("fps")
    if not isinstance(fps, int) or fps < 1:
        raise DataError(f"{root / INFO} has fps {fps!r:.20}, expected a whole number from 1")
    prefix = image_key("")
    there = [key.removeprefix(prefix) for key in features if key.startswith(prefix)]
    if cameras is None:
        _refuse_other_pictures(root, features)
    for camera in cameras or ():
        if camera not in there:
            known = shown(", ".join(there)) or "none"
            raise DataError(f"{root} has no camera {camera!r}, only {known}")
    for key in (STATE, ACTION):
        if key not in features:
            raise DataError(f"{root} has no column {key}")
    try:
        return DatasetSchema(
            robot=info.get("robot_type") or "",
            fps=fps,
            state_names=_names(features[STATE]),
            action_names=_names(features[ACTION]),
            cameras={
                camera: _size(features[image_key(camera)])
                for camera in (there if cameras is None else cameras)
            },
        )
    except (LookupError, TypeError) as error:
        raise DataError(f"{root / INFO} is no description of a dataset: {error!r:.200}") from error


def _refuse_other_pictures(root: Path, features: Mapping[str, Any]) -> None:
    """Whoever asks for all cameras is not to train without one because of its name."""
    for key, feature in features.items():
        if feature["dtype"] in ("video", "image") and not key.startswith(image_key("")):
            raise DataError(
                f"{root}: {key!r:.100} holds pictures, expected {image_key('NAME')}; rename it, "
                "or say which cameras are wanted"
            )


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a vector's elements; some datasets group them, some have none."""
    names, count = feature.get("names"), feature["shape"][0]
    if isinstance(names, dict):
        names = [name for group in names.values() for name in group]
    return tuple(names or map(str, range(count)))


def _size(feature: Mapping[str, Any]) -> tuple[int, int]:
    sizes = dict(zip(feature["names"] or ("height", "width"), feature["shape"], strict=False))
    return sizes["height"], sizes["width"]
