# SPDX-License-Identifier: Apache-2.0
"""An episode as a film: the overlay that the value monitor shows of a live run."""

import math
from pathlib import Path

from vla_nodes.display.style import value_state
from vla_nodes.display.value_history import ValueHistory
from vla_nodes.display.value_overlay import ValuePicture, compose_value
from vla_nodes.display.video import VideoWriter
from vla_nodes.monitoring.value_events import EventSettings, ValueEvents
from vla_training.evaluation.value_episodes import EpisodeValues
from vla_training.evaluation.value_plots import OUTCOME_WORDS

_END = 1.5  # s for which the end is shown


def write_video(path: Path, episode: EpisodeValues, camera: str) -> None:
    """Writes the film, as long as the episode and a moment more.

    Stalls, drops and the end are told as the value monitor tells them with its default settings.

    Args:
        path: Of the MP4 file.
        episode: What to show.
        camera: Whose pictures to show.

    Raises:
        DataError: A picture cannot be read.
        OSError: The disk refuses.
    """
    history, events = ValueHistory(), ValueEvents(EventSettings())
    subtasks, step = episode.subtasks, _step(episode)
    with VideoWriter(path, 1.0 / step) as film:
        for place, time in enumerate(episode.times.tolist()):
            value = float(episode.values[place])
            history.add(time, value, *episode.band[place].tolist())
            now = events.update(0, subtasks[place], time, value, math.nan)
            times, values, low, high = history.columns()
            state = value_state(finished=now.finished, dropped=now.dropped, stalled=now.stalled)
            last = place == len(subtasks) - 1
            frame = compose_value(
                ValuePicture(
                    camera=episode.picture(camera, int(episode.frames[place])),
                    task=episode.task,
                    subtask=subtasks[place],
                    state=OUTCOME_WORDS[episode.outcome] if last else state,
                    value=value,
                    times=times,
                    values=values,
                    low=low,
                    high=high,
                    probabilities=episode.probabilities[place],
                    trend=now.trend,
                    stalled=now.stalled,
                )
            )
            film.write(frame, round(time * 1e9))
        # What is shown is the same: only so does the file last until its end.
        for more in range(1, 1 + max(1, round(_END / step))):
            film.write(frame, round((time + more * step) * 1e9))


def _step(episode: EpisodeValues) -> float:
    """Seconds from one frame to the next."""
    frames = episode.frames
    return float(frames[1] - frames[0] if len(frames) > 1 else 1) / episode.fps
