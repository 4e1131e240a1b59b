# SPDX-License-Identifier: Apache-2.0
"""Checks on the tables of a dataset: counts, indices, times, tasks and subtasks."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.errors import shown
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding, count, graded
from vla_training.data.schema import BAG_TIME, OUTCOME, SUBTASK, SUBTASK_INDEX
from vla_training.data.stamps import SECOND

_TOLERANCE = 1e-4  # s; what LeRobot bears between a row and its picture
_INDICES = ("index", "frame_index", "episode_index", "timestamp", "task_index")


def check_counts(dataset: Dataset) -> Iterator[Finding]:
    """Totals, episodes and rows tell the same numbers.

    Whether rows can be told apart by episode afterwards is whether all of these pass.
    """
    episodes, info = dataset.episodes, dataset.info
    rows = len(dataset.columns["index"]) if "index" in dataset.columns else 0
    claimed = int(episodes["length"].sum())
    for name, found, what in (
        ("total_frames", rows, "rows in the tables"),
        ("total_frames", claimed, "frames claimed by the episodes"),
        ("total_episodes", len(episodes), "episodes in meta/episodes"),
        ("total_tasks", len(dataset.tasks), "tasks in meta/tasks.parquet"),
    ):
        text = f"{found} {what}, {name} says {info[name]}"
        yield Finding("counts", name, graded(found != info[name]), text, found, info[name])
    empty = episodes["length"] < 1
    if empty.any():
        text = f"episode {int(np.argmax(empty))} has no frames"
        yield Finding("counts", "length", "fail", text, int(empty.sum()), 0)
    numbered = (episodes["episode_index"] == np.arange(len(episodes))).all()
    text = "episodes count up from 0" if numbered else "episodes do not count up from 0"
    yield Finding("counts", "episode_index", graded(not numbered), text)
    begins = np.concatenate([[0], episodes["length"].cumsum()])
    places = (episodes["dataset_from_index"] != begins[:-1]) | (
        episodes["dataset_to_index"] != begins[1:]
    )
    text = "each episode begins where the one before ends"
    if places.any():
        text = f"episode {int(np.argmax(places))} does not begin and end where its length says"
    yield Finding("counts", "dataset_from_index", graded(places.any()), text, int(places.sum()), 0)


def check_indices(dataset: Dataset) -> Iterator[Finding]:
    """Every index column holds exactly what LeRobot computes."""
    missing = [name for name in _INDICES if name not in dataset.columns]
    if missing:
        text = f"{', '.join(missing)} missing from the tables"
        yield Finding("index", missing[0], "fail", text, len(missing), 0)
        return
    lengths = dataset.episodes["length"].to_numpy()
    if lengths.sum() != len(dataset.columns["index"]) or lengths.min() < 0:
        return  # told by check_counts
    frames = np.concatenate([np.arange(length) for length in lengths])
    expected: dict[str, npt.NDArray[Any]] = {
        "index": np.arange(len(frames)),
        "episode_index": np.repeat(dataset.episodes["episode_index"].to_numpy(), lengths),
        "frame_index": frames,
        "timestamp": (frames / dataset.fps).astype(np.float32),
    }
    for name, values in expected.items():
        wrong = dataset.columns[name] != values
        text, grave = "exact in every row", bool(wrong.any())
        if wrong.any():
            row = int(np.argmax(wrong))
            text = (
                f"row {row} holds {dataset.columns[name][row]}, expected {values[row]}; "
                f"{count(int(wrong.sum()), 'row')} differ"
            )
            if name == "timestamp":
                grave = not np.allclose(dataset.columns[name], values, rtol=0, atol=_TOLERANCE)
        yield Finding("index", name, graded(grave, wrong.any()), text, int(wrong.sum()), 0)


def check_tasks(dataset: Dataset, contract: Contract | None) -> Iterator[Finding]:
    """Every row's task exists, is the one its episode names, and is one of the contract."""
    tasks, rows = dataset.tasks, dataset.columns["task_index"]
    # LeRobot finds a task by its place in the table, whatever number stands there.
    ordered = (tasks["task_index"] == np.arange(len(tasks))).all()
    text = "tasks are numbered by their place" if ordered else "numbers do not follow the places"
    yield Finding("task", "meta/tasks.parquet", graded(not ordered), text, len(tasks))
    outside = (rows < 0) | (rows >= len(tasks))
    if outside.any():
        row = int(np.argmax(outside))
        text = f"row {row} has task_index {rows[row]} of {count(len(tasks), 'task')}"
        yield Finding("task", "task_index", "fail", text, int(outside.sum()), 0)
        return
    for episode, part in dataset.rows():
        named = {str(tasks.index[i]) for i in np.unique(rows[part])}
        tasks_of = episode["tasks"]
        said = {str(task) for task in tasks_of} if isinstance(tasks_of, Iterable) else set()
        if named != said:
            text = f"its rows say {shown(sorted(named))}, meta/episodes {shown(sorted(said))}"
            yield Finding("task", f"episode {episode['episode_index']}", "fail", text)
    for text in map(str, tasks.index):
        known = contract is None or not contract.tasks or text in contract.tasks
        what = "used" if known else "not a task of the contract: robots refuse it"
        yield Finding("task", shown(text), graded(False, not known), what)


def check_subtasks(dataset: Dataset) -> Iterator[Finding]:
    """Subtask indices point into the list of subtasks, and say the same as the text."""
    if SUBTASK_INDEX not in dataset.columns:
        return
    indices, table = dataset.columns[SUBTASK_INDEX], dataset.subtasks
    texts = _ordered_texts(table)
    if texts is None:
        text = "meta/subtasks.parquet is missing or not numbered by place"
        bad = table is not None or (indices >= 0).any()
        yield Finding("subtask", SUBTASK_INDEX, graded(bad), text if bad else "no subtasks")
        return
    wrong = (indices < -1) | (indices >= len(texts))
    if not wrong.any() and SUBTASK in dataset.texts:
        wrong = np.array([*texts, ""])[indices] != np.array(dataset.texts[SUBTASK])
    text = f"{count(len(texts), 'subtask')}, every row in agreement"
    if wrong.any():
        row = int(np.argmax(wrong))
        said = shown(dataset.texts[SUBTASK][row]) if SUBTASK in dataset.texts else "nothing"
        text = f"row {row} has index {indices[row]} and says {said!r}"
    yield Finding("subtask", SUBTASK_INDEX, graded(wrong.any()), text, int(wrong.sum()), 0)


def check_outcomes(dataset: Dataset) -> Iterator[Finding]:
    """Outcomes are failure, success or unknown, the same in all of an episode."""
    if OUTCOME not in dataset.columns:
        return
    values = dataset.columns[OUTCOME]
    strange = ~np.isin(values, (-1, 0, 1))
    mixed = [
        episode["episode_index"] for episode, part in dataset.rows() if np.ptp(values[part]) != 0
    ]
    text = "one of failure, success and unknown in every episode"
    if strange.any():
        text = f"row {int(np.argmax(strange))} holds {values[np.argmax(strange)]}"
    elif mixed:
        text = f"it changes within episode {mixed[0]}"
    yield Finding("outcome", OUTCOME, graded(strange.any() or mixed), text, len(mixed), 0)


def check_bag_times(dataset: Dataset) -> Iterator[Finding]:
    """Times in the bag rise by a frame from row to row, to the nanosecond."""
    if BAG_TIME not in dataset.columns:
        text = "not there: frames cannot be traced to the bag"
        yield Finding("bag_time", BAG_TIME, "warn", text)
        return
    times = dataset.columns[BAG_TIME]
    drops = _on_gap(dataset) == "drop"
    faults: list[str] = []
    left_out = 0
    for episode, part in dataset.rows():
        since = times[part] - times[part][0]
        # A grid may begin before the episode: where 1/fps is no whole number of nanoseconds, its
        # times round to one more or one less.
        places = _rounded_quotient(since * dataset.fps, SECOND)
        steps = np.diff(places)
        wrong = np.abs(since * dataset.fps - places * SECOND) > dataset.fps
        wrong[1:] |= (steps < 1) | ((steps > 1) & (not drops))
        left_out += int((steps - 1)[steps > 1].sum())
        if wrong.any():
            frame = int(np.argmax(wrong))
            faults.append(f"episode {episode['episode_index']} from frame {frame}")
    text = "each row a frame after the one before"
    if left_out and drops:
        text += f", {count(left_out, 'frame')} left out where an input was missing"
    if faults:
        text = f"off the grid of {dataset.fps} Hz in {'; '.join(faults[:3])}"
    yield Finding("bag_time", BAG_TIME, graded(faults), text, len(faults), 0)


def _rounded_quotient(values: npt.NDArray[np.int64], divisor: int) -> npt.NDArray[np.int64]:
    return (values + divisor // 2) // divisor


def _ordered_texts(table: pd.DataFrame | None) -> Sequence[str] | None:
    """The texts of a table whose numbers follow their places."""
    if table is None or (table.iloc[:, 0] != np.arange(len(table))).any():
        return None
    return [str(text) for text in table.index]


def _on_gap(dataset: Dataset) -> str | None:
    """What the conversion did where an input was missing, as it says itself."""
    settings = dataset.conversion.get("settings")
    return settings.get("on_gap") if isinstance(settings, dict) else None
