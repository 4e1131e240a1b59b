# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a policy as a folder: ``report.json`` and plots."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vla_training.data.errors import DataError
from vla_training.data.files import write_whole
from vla_training.evaluation.action_errors import ActionErrors, Array
from vla_training.evaluation.policy_evaluation import Recording, Results
from vla_training.evaluation.policy_plots import (
    EpisodeChunks,
    EpisodeSubtasks,
    plot_chunks,
    plot_errors,
    plot_subtasks,
)
from vla_training.evaluation.subtask_scores import confusion, score_subtasks

REPORT = "report.json"
MAX_CONFUSED = 12
"""Subtasks in the table of confusion; the others are counted together."""


def as_json(recording: Recording, results: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The report as plain values; None stands for a figure that nothing was measured for.

    Args:
        recording: What the policy was held against.
        results: Of the evaluation.
        settings: Of the evaluation; they come first.
    """
    schema, factors = recording.items.schema, recording.factors
    return {
        **settings,
        "frames": results.count,
        "seconds": results.seconds,
        "frames_per_s": results.count / results.seconds,
        "fps": schema.fps,
        "joints": list(schema.action_names),
        "actions": {
            name: {"own": _figures(error), "normalised": _figures(error.scaled(factors))}
            for name, error in results.total.items()
        },
        "subtasks": _subtasks(recording, results),
        "tasks": {
            task: {
                "frames": results.frames[task],
                "normalised_mae": {
                    name: float(error.over_steps().scaled(factors).mae.mean())
                    for name, error in errors.items()
                },
                "subtasks": _scores(results, task),
            }
            for task, errors in results.errors.items()
        },
    }


def write_report(
    folder: Path, recording: Recording, results: Results, report: Mapping[str, Any]
) -> None:
    """Writes plots and report; a report lies only beside the plots that belong to it.

    Raises:
        DataError: The disk refuses.
    """
    schema = recording.items.schema
    subtasks = folder / "subtasks.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for before in (folder / REPORT, subtasks):
            before.unlink(missing_ok=True)
        plot_errors(folder / "errors.png", schema.action_names, results.total)
        chunks = _episode_chunks(results)
        plot_chunks(folder / "chunks.png", schema.action_names, schema.fps, chunks)
        if results.planned:
            plot_subtasks(subtasks, schema.fps, _episode_subtasks(results))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    write_whole(folder / REPORT, report)


def _figures(error: ActionErrors) -> dict[str, Any]:
    overall = error.over_steps()
    return {
        "mae": _plain(overall.mae[0]),
        "rmse": _plain(overall.rmse[0]),
        "mae_by_step": _plain(error.mae),
        "rmse_by_step": _plain(error.rmse),
    }


def _plain(values: Array) -> list[Any]:
    """Lists of numbers; JSON has no NaN."""
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return plain.tolist()


def _subtasks(recording: Recording, results: Results) -> dict[str, Any] | None:
    scores = _scores(results)
    if scores is None:
        return None
    confused = {
        name: confusion([(f.recorded, getattr(f, name)) for f in results.planned], MAX_CONFUSED)
        for name in ("written", "chosen")
    }
    return {
        **scores,
        "known": list(recording.known),
        "labels": list(confused["chosen"].labels),
        "confusion": {name: table.counts.tolist() for name, table in confused.items()},
    }


def _scores(results: Results, task: str | None = None) -> dict[str, Any] | None:
    frames = [frame for frame in results.planned if task in (None, frame.task)]
    return asdict(score_subtasks(frames)) if frames else None


def _episode_chunks(results: Results) -> EpisodeChunks:
    shown = results.shown
    length = max(one.frame + len(one.recorded) for one in shown)
    recorded = np.full((length, shown[0].predicted.shape[1]), np.nan)
    for one in shown:
        recorded[one.frame : one.frame + len(one.recorded)] = one.recorded
    return EpisodeChunks(
        episode=shown[0].episode,
        recorded=recorded,
        frames=np.array([one.frame for one in shown]),
        predicted=np.stack([one.predicted for one in shown]),
    )


def _episode_subtasks(results: Results) -> list[EpisodeSubtasks]:
    episodes = []
    for episode, group in groupby(results.planned, key=lambda frame: frame.episode):
        frames = list(group)
        lanes = {
            lane: [getattr(frame, lane) for frame in frames]
            for lane in ("recorded", "written", "chosen")
        }
        episodes.append(
            EpisodeSubtasks(episode, np.array([frame.frame for frame in frames]), lanes)
        )
    return episodes
