# SPDX-License-Identifier: Apache-2.0
"""``vla-label``: returns, advantages and indicators, written into a dataset."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tyro

from vla_training.data.errors import DataError
from vla_training.data.labels.columns import write_columns
from vla_training.data.labels.frame_labels import (
    POSITIVE,
    RETURN,
    Settings,
    make_labels,
    read_inputs,
)
from vla_training.data.labels.metadata import STATS, read_info, read_json
from vla_training.data.labels.record import (
    differences,
    new_record,
    read_record,
    write_record,
)
from vla_training.data.labels.replacement import replacement, sole_access


@dataclass(frozen=True)
class _Arguments:
    """Labels the frames of a LeRobot dataset: returns, advantages, positive or not.

    Attributes:
        dataset: Its folder.
        settings: How to label.
        replace: Replace labels that were made with other settings or from other data.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    replace: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-label``; returns the exit status."""
    arguments = tyro.cli(
        _Arguments, prog="vla-label", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        print(label(arguments.dataset, arguments.settings, replace=arguments.replace))
    except (DataError, OSError) as error:
        print(f"vla-label: {error}", file=sys.stderr)
        return 1
    except (pa.ArrowException, LookupError) as error:
        print(f"vla-label: {arguments.dataset} is damaged: {error!r:.200}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-label: interrupted", file=sys.stderr)
        return 130
    return 0


def label(dataset: Path, settings: Settings, *, replace: bool = False) -> str:
    """Labels a dataset.

    It gets the column ``return`` (float32) and, where ``settings.values`` is given,
    ``advantage`` (float32) and ``positive`` (int64: 1, 0 or ``UNLABELLED``). Settings are kept
    in ``meta/labels.json``.

    Args:
        dataset: Folder of a LeRobot v3 dataset. It is replaced as a whole, so that it is the
            old or the new one at any time.
        settings: How to label.
        replace: Also where there are labels of other settings or other data.

    Returns:
        What was done, for people.

    Raises:
        DataError: It cannot be labelled so, or is labelled otherwise.
        OSError: The disk refused; the dataset is as it was.
    """
    root = dataset.resolve()
    with sole_access(root):
        info, stats = read_info(root), read_json(root / STATS) or {}
        frames = read_inputs(root, info, settings)
        labels = make_labels(frames, settings)
        record = new_record(root, asdict(settings), frames, list(labels))
        before = read_record(root)
        what = differences(before, record, info["features"]) if before else ""
        if before and not what:
            return f"{dataset} has these labels already"
        if not replace:
            _refuse_loss(dataset, info, what, record)
        stale = before["columns"] if before else []
        with replacement(root) as new:
            write_columns(new, info, stats, labels, frames.lengths, remove=stale)
            write_record(new, record)
    return _summary(dataset, labels)


def _refuse_loss(
    dataset: Path, info: Mapping[str, Any], what: str, record: Mapping[str, Any]
) -> None:
    """Refuses where labels would be lost; ``what`` says how those there differ."""
    if what:
        raise DataError(f"{dataset} has other labels ({what}); --replace makes them anew")
    for column in record["columns"]:
        if column in info["features"]:
            raise DataError(
                f"{dataset} has a column {column} that vla-label did not make; "
                "--replace overwrites it"
            )


def _summary(dataset: Path, labels: dict[str, npt.NDArray[Any]]) -> str:
    y = labels[RETURN]
    made = np.isfinite(y)
    text = (
        f"{dataset}: {made.sum()} frames labelled, return from {y[made].min():.3f} "
        f"to {y[made].max():.3f}"
    )
    if not made.all():
        text += f", {(~made).sum()} frames without a label"
    if POSITIVE in labels:
        text += f", {np.mean(labels[POSITIVE][made]):.1%} of them positive"
    return text
