# SPDX-License-Identifier: Apache-2.0
"""The instruction file of run folders: what each folder is about, in words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vla_training.data.conversion.texts import check_text
from vla_training.data.errors import DataError

_MAX_BYTES = 16 * 1024**2


class Texts(NamedTuple):
    """What a run is about: the high-level task and the subtask."""

    task: str
    subtask: str


@dataclass(frozen=True)
class Instructions:
    """The content of an instruction file.

    Attributes:
        path: Of the file.
        task: The high-level task of all; empty where there is none.
        stages: By number of the stage.
        tasks: By name of the task's folder: its text (may be empty), and those of its
            subtasks by name of their folders.
    """

    path: Path
    task: str
    stages: Mapping[int, Texts]
    tasks: Mapping[str, tuple[str, Mapping[str, str]]]

    def of_stage(self, stage: int) -> Texts:
        """What the runs of a stage are about.

        Raises:
            DataError: The file does not say.
        """
        texts = self.stages.get(stage, Texts("", ""))
        if not (texts.task and texts.subtask):
            raise DataError(
                f"{self.path}: stage {stage} has no {'subtask' if texts.task else 'task'}; "
                f"expected an entry of task_instructions with stage {stage}"
            )
        return texts

    def of_folders(self, task: str, subtask: str) -> Texts:
        """What the runs in two folders are about.

        Where the file names no folders they are taken at their word: the name of a folder is
        its text, with spaces for ``_``. A file that names tasks has to name all of them, and
        one that names subtasks of a task all of those.

        Raises:
            DataError: The file names other folders, and not these.
        """
        if self.tasks and task not in self.tasks:
            raise DataError(f"{self.path}: tasks has no {task!r}, a folder that holds runs")
        text, subtasks = self.tasks.get(task, ("", {}))
        where = f"{self.path}: tasks.{task}"
        if subtasks and subtask not in subtasks:
            raise DataError(f"{where}.subtasks has no {subtask!r}, a folder that holds runs")
        return Texts(
            text or self.task or _spoken(task, where),
            subtasks.get(subtask) or _spoken(subtask, f"{where}.subtasks"),
        )


def read_instructions(path: Path) -> Instructions:
    """Reads an instruction file.

    Raises:
        DataError: It cannot be read, or something in it is not as expected.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
        content = _mapping(json.loads(path.read_text(encoding="utf-8-sig")), f"{path}")
        content = {key: value for key, value in content.items() if value is not None}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error!s:.200}") from error
    task = _text(content, "high_level_task", f"{path}: ")
    entries = content.get("task_instructions", [])
    if not isinstance(entries, list):
        raise DataError(f"{path}: task_instructions is {_short(entries)}, expected a list")
    stages: dict[int, Texts] = {}
    for place, entry in enumerate(entries):
        where = f"{path}: task_instructions[{place}]"
        stage = _mapping(entry, where).get("stage")
        if not isinstance(stage, int) or isinstance(stage, bool) or stage in stages:
            raise DataError(f"{where}.stage is {_short(stage)}, expected a whole number of its own")
        stages[stage] = Texts(
            _text(entry, "high_level_task", f"{where}.") or task,
            _text(entry, "subtask", f"{where}.") or _text(entry, "text", f"{where}."),
        )
    return Instructions(path, task, stages, _tasks(content.get("tasks", {}), f"{path}: tasks"))


def _tasks(content: Any, where: str) -> dict[str, tuple[str, dict[str, str]]]:
    tasks = {}
    for name, entry in _mapping(content, where).items():
        task = f"{where}.{name}"
        subtasks = {}
        for key, value in _mapping(_mapping(entry, task).get("subtasks", {}), task).items():
            subtask = f"{task}.subtasks.{key}"
            subtasks[key] = _text(_mapping(value, subtask), "text", f"{subtask}.")
        tasks[name] = (_text(entry, "text", f"{task}."), subtasks)
    return tasks


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    """A text with white space made single spaces; empty where there is none."""
    text = entry.get(key)
    if isinstance(text, str):
        text = " ".join(text.split())
    return "" if text is None else check_text(text, f"{where}{key}")


def _spoken(name: str, where: str) -> str:
    return check_text(name.replace("_", " "), f"{where}: the folder's name")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {_short(value)}, expected an object")
    return value


def _short(value: Any) -> str:
    return f"{value!r:.80}"
