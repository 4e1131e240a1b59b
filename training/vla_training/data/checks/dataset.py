# SPDX-License-Identifier: Apache-2.0
"""Every check of a dataset."""

from collections.abc import Callable, Iterator
from pathlib import Path

from vla_nodes.contract.schema import Checks, Contract
from vla_training.data.bags.errors import shown
from vla_training.data.checks.dataset_columns import read_tables
from vla_training.data.checks.dataset_files import Dataset, open_dataset
from vla_training.data.checks.dataset_statistics import check_statistics
from vla_training.data.checks.dataset_tables import (
    check_bag_times,
    check_counts,
    check_indices,
    check_outcomes,
    check_subtasks,
    check_tasks,
)
from vla_training.data.checks.dataset_values import check_features, check_finite, check_values
from vla_training.data.checks.dataset_videos import check_videos
from vla_training.data.checks.findings import Finding, worst
from vla_training.data.errors import DataError


def check_dataset(
    root: Path, contract: Contract | None, progress: Callable[[int], object] = lambda _: None
) -> tuple[Dataset | None, list[Finding]]:
    """Checks a dataset: every row of its tables and every picture of its videos.

    Args:
        root: Its folder.
        contract: None to check what a dataset says of itself.
        progress: Called with the number of pictures since the last call.

    Returns:
        What was read, None where nothing could be, and the findings.
    """
    try:
        dataset = open_dataset(root)
    except DataError as error:
        return None, [Finding("file", root.name, "fail", str(error))]
    findings = list(read_tables(dataset))
    if worst(findings) != "fail":
        findings += [*check_counts(dataset), *check_indices(dataset)]
    if contract is not None:
        findings += check_features(dataset, contract)
    rows_ok = all(
        finding.level != "fail"
        for finding in findings
        if finding.check in ("file", "counts", "index")
    )
    if rows_ok:
        findings += _check_rows(dataset, contract)
    else:
        text = "rows cannot be told apart by episode, so their values were not checked"
        findings.append(Finding("rows", root.name, "fail", text))
    checks = contract.checks if contract else Checks()
    findings += check_videos(dataset, checks, progress)
    # A damaged dataset would send LeRobot to the Hub for the missing parts.
    if worst(findings) != "fail":
        findings.append(_check_loading(dataset))
    return dataset, findings


def _check_rows(dataset: Dataset, contract: Contract | None) -> Iterator[Finding]:
    yield from check_tasks(dataset, contract)
    yield from check_subtasks(dataset)
    yield from check_outcomes(dataset)
    yield from check_bag_times(dataset)
    yield from check_finite(dataset)
    yield from check_statistics(dataset)
    if contract is not None:
        yield from check_values(dataset, contract)


def _check_loading(dataset: Dataset) -> Finding:
    """LeRobot itself opens the dataset and gives frames of its beginning, middle and end."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # takes seconds

    rows = len(dataset.columns["index"])
    try:
        loaded = LeRobotDataset(dataset.root.name, root=dataset.root, video_backend="pyav")
        for row in sorted({0, rows // 2, rows - 1}):
            item = loaded[row]
            for key, feature in dataset.features.items():
                if key not in item:
                    return Finding("lerobot", key, "fail", f"LeRobot gives no {key} in row {row}")
                size = tuple(item[key].shape[1:]) if feature["dtype"] == "video" else None
                if size and size != dataset.picture_size(key):
                    text = f"LeRobot gives a picture of {size} in row {row}"
                    return Finding("lerobot", key, "fail", text)
    except Exception as error:  # whatever LeRobot and its libraries raise
        text = f"LeRobot cannot load it: {shown(error, 400)}"
        return Finding("lerobot", dataset.root.name, "fail", text)
    return Finding("lerobot", dataset.root.name, "ok", "LeRobot loads it and gives frames", rows)
