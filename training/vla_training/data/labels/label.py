# SPDX-License-Identifier: Apache-2.0
"""``vla-label``: returns, values, advantages, indicators and weights, written into a dataset."""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tyro

from vla_nodes.models.errors import CheckpointError
from vla_training.data.errors import DataError
from vla_training.data.labels.columns import Frames, write_columns
from vla_training.data.labels.frame_labels import (
    POSITIVE,
    RETURN,
    TASK,
    VALUE,
    Settings,
    make_labels,
    read_inputs,
)
from vla_training.data.labels.metadata import STATS, read_info, read_json
from vla_training.data.labels.record import (
    differences,
    digest_of,
    new_record,
    read_record,
    write_record,
)
from vla_training.data.labels.replacement import replacement, sole_access
from vla_training.data.labels.summary import Labelled, read_labelled, summary
from vla_training.data.labels.value_column import (
    Prediction,
    check_scale,
    checkpoint_digest,
    forget_parts,
    predict_column,
)


@dataclass(frozen=True)
class _Arguments:
    """Labels the frames of a LeRobot dataset: returns, advantages, positive or not.

    Attributes:
        dataset: Its folder.
        settings: How to label.
        prediction: How to predict values.
        replace: Replace labels that were made with other settings or from other data.
        plots: Folder for histograms of the labels.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    prediction: Annotated[Prediction, tyro.conf.arg(name="")] = field(default_factory=Prediction)
    replace: bool = False
    plots: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-label``; returns the exit status."""
    arguments = tyro.cli(
        _Arguments, prog="vla-label", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        done = label(
            arguments.dataset,
            arguments.settings,
            prediction=arguments.prediction,
            replace=arguments.replace,
        )
        labelled = read_labelled(arguments.dataset.resolve())
        print(f"{done}\n{summary(labelled)}")
        if arguments.plots is not None:
            print(f"written: {_plot(arguments.plots, labelled)}")
    except (CheckpointError, DataError, OSError) as error:
        print(f"vla-label: {error}", file=sys.stderr)
        return 1
    except (pa.ArrowException, LookupError) as error:
        print(f"vla-label: {arguments.dataset} is damaged: {error!r:.200}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-label: interrupted", file=sys.stderr)
        return 130
    return 0


def label(
    dataset: Path,
    settings: Settings,
    *,
    prediction: Prediction | None = None,
    replace: bool = False,
) -> str:
    """Labels a dataset.

    It gets the column ``return`` (float32), where it has subtasks ``subtask_return`` (float32),
    with a checkpoint ``value`` (float32), and where ``settings.values`` is given or predicted
    ``advantage`` (float32) and ``positive`` (int64: 1, 0 or ``UNLABELLED``), with
    ``settings.beta`` also ``weight`` (float32). Settings are kept in ``meta/labels.json``.

    Args:
        dataset: Folder of a LeRobot v3 dataset. It is replaced as a whole, so that it is the
            old or the new one at any time.
        settings: How to label.
        prediction: How to predict values, if at all.
        replace: Also where there are labels of other settings or other data.

    Returns:
        What was done, for people.

    Raises:
        CheckpointError: The checkpoint is no trained value function.
        DataError: It cannot be labelled so, or is labelled otherwise.
        OSError: The disk refused; the dataset is as it was.
    """
    root, prediction = dataset.resolve(), prediction or Prediction()
    with sole_access(root):
        info, stats = read_info(root), read_json(root / STATS) or {}
        before = read_record(root)
        settings, digest = _values_wanted(settings, prediction, before)
        predict = prediction.value_checkpoint is not None
        frames = read_inputs(root, info, settings, absent=VALUE if predict else None)
        if predict and not _are_there(before, digest, frames):
            # First as if they were all 0, so that nobody waits hours to be refused.
            frames = frames.with_column(VALUE, np.zeros(frames.lengths.sum(), np.float32))
        else:
            predict = False
        labels, record = _made(root, frames, settings, digest)
        what = differences(before, record, info["features"]) if before else ""
        if before and not what and not predict:
            return f"{dataset} has these labels already"
        if not replace:
            _refuse_loss(dataset, info, what, record)
        if predict:
            values = predict_column(root, frames.lengths, prediction, _key(frames, digest))
            labels, record = _made(root, frames.with_column(VALUE, values), settings, digest)
        stale = before["columns"] if before else []
        with replacement(root) as new:
            write_columns(new, info, stats, labels, frames.lengths, remove=stale)
            write_record(new, record)
        forget_parts(root)
    return _summary(dataset, labels)


def _values_wanted(
    settings: Settings, prediction: Prediction, before: Mapping[str, Any] | None
) -> tuple[Settings, str | None]:
    """The settings with the column of values, and the digest of the checkpoint that makes it.

    Values that were predicted before keep their digest where they are used again.
    """
    if prediction.value_checkpoint is not None:
        if settings.values not in (None, VALUE):
            raise DataError(
                f"--values {settings.values} and --value-checkpoint exclude each other: "
                f"the checkpoint's values become the column {VALUE}"
            )
        digest = checkpoint_digest(prediction.value_checkpoint)
        check_scale(prediction.value_checkpoint, settings)
        return dataclasses.replace(settings, values=VALUE), digest
    if settings.values == VALUE and before and VALUE in before["columns"]:
        return settings, before["settings"].get("value_checkpoint")
    return settings, None


def _are_there(before: Mapping[str, Any] | None, digest: str | None, frames: Frames) -> bool:
    """Whether the dataset has the values of this checkpoint for the frames that it has."""
    return (
        before is not None
        and VALUE in frames.columns
        and before["settings"].get("value_checkpoint") == digest
        and before.get("predicted") == digest_of(frames, (TASK, VALUE))
    )


def _made(
    root: Path, frames: Frames, settings: Settings, digest: str | None
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Labels, and their record."""
    labels = make_labels(frames, settings)
    if digest:
        labels[VALUE] = frames.columns[VALUE]
    asked = {**dataclasses.asdict(settings), "value_checkpoint": digest}
    record = new_record(root, asked, frames, list(labels))
    return labels, record | ({"predicted": digest_of(frames, (TASK, VALUE))} if digest else {})


def _key(frames: Frames, digest: str | None) -> str:
    """Of values that a run makes, which another run may go on with."""
    return hashlib.sha256(f"{digest} {digest_of(frames, (TASK,))}".encode()).hexdigest()


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


def _plot(folder: Path, labelled: Labelled) -> Path:
    # Matplotlib takes a second to import.
    from vla_training.data.labels.label_plots import plot_labels

    return plot_labels(folder / "labels.png", labelled)
