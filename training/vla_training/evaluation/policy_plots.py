# SPDX-License-Identifier: Apache-2.0
"""A policy's errors, its chunks, and its subtasks as pictures."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vla_nodes.display.joint_plot import INK
from vla_nodes.display.style import BLUE, GREEN, GREY, ORANGE, RED, SKY, printable
from vla_training import plot_pages
from vla_training.evaluation.action_errors import BEST, HOLD, MEAN, POLICY, ActionErrors

SUBTASK_COLOURS = (BLUE, ORANGE, GREEN, SKY, "#cc79a7", "#f0e442", RED, INK)
MAX_JOINTS = 16
MAX_EPISODES = 8

_LINES = {  # colour, width, style
    POLICY: (BLUE, 2.2, "-"),
    BEST: (SKY, 1.6, "-"),
    HOLD: (ORANGE, 1.4, (0, (5, 2))),
    MEAN: (GREY, 1.4, (0, (1.5, 1.5))),
}


@dataclass(frozen=True, eq=False)
class EpisodeChunks:
    """An episode of actions, and what was predicted for it.

    Attributes:
        episode: Its index.
        recorded: (N, A) by frame; NaN where it is not known.
        frames: (M,) at which a chunk was predicted, ascending.
        predicted: (M, T, A); the first action of a chunk is its frame's own.
    """

    episode: int
    recorded: npt.NDArray[np.float64]
    frames: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EpisodeSubtasks:
    """The subtasks of an episode.

    Attributes:
        episode: Its index.
        frames: (M,) that were planned for, ascending.
        lanes: By what they are called, M texts each; the recorded ones come first.
    """

    episode: int
    frames: npt.NDArray[np.int64]
    lanes: Mapping[str, Sequence[str]]


def plot_errors(path: Path, joints: Sequence[str], errors: Mapping[str, ActionErrors]) -> None:
    """Draws the mean absolute error at each step of a chunk, joint by joint.

    Args:
        path: Of the PNG.
        joints: A names; more than ``MAX_JOINTS`` are left out.
        errors: By predictor, in the joints' own units.
    """
    with _page(path, min(len(joints), MAX_JOINTS), 3, 2.6) as (page, axes):
        page.suptitle("Mean absolute error by step of the chunk")
        for joint, ax in enumerate(axes):
            for name, error in errors.items():
                colour, width, style = _LINES[name]
                steps, mae = 1 + np.arange(len(error.mae)), error.mae[:, joint]
                ax.plot(steps, mae, ls=style, color=colour, lw=width, label=name)
            ax.set_ylim(bottom=0.0)
            ax.set_title(printable(joints[joint], 40))
        for ax in axes[-3:]:
            ax.set_xlabel("step")
            ax.tick_params(labelbottom=True)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        page.supylabel("error, in the joint's own unit", fontsize=10)
        handles, labels = axes[0].get_legend_handles_labels()
        page.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def plot_chunks(path: Path, joints: Sequence[str], fps: float, episode: EpisodeChunks) -> None:
    """Draws predicted chunks over the recorded actions of an episode, joint by joint.

    Chunks overlap; of those that do, the first is drawn, and the next begins where it is half
    over.

    Args:
        path: Of the PNG.
        joints: A names; more than ``MAX_JOINTS`` are left out.
        fps: Actions in a second.
        episode: What to draw.
    """
    steps = episode.predicted.shape[1]
    drawn: list[int] = []
    for place, frame in enumerate(episode.frames):
        if not drawn or frame - episode.frames[drawn[-1]] >= max(1, steps // 2):
            drawn.append(place)
    with _page(path, min(len(joints), MAX_JOINTS), 1, 1.9) as (page, axes):
        page.suptitle(f"Predicted chunks over episode {episode.episode}")
        recorded_times = np.arange(len(episode.recorded)) / fps
        for joint, ax in enumerate(axes):
            ax.plot(recorded_times, episode.recorded[:, joint], color=ORANGE, linewidth=2.8)
            for place in drawn:
                times = (episode.frames[place] + np.arange(steps)) / fps
                values = episode.predicted[place, :, joint]
                inside = times <= recorded_times[-1]
                ax.plot(times[inside], values[inside], color=BLUE, linewidth=1.1)
                ax.plot(times[0], values[0], ".", color=BLUE, markersize=5)
            ax.set_title(printable(joints[joint], 40))
            ax.set_xlim(0.0, max(recorded_times[-1], 1 / fps))
        axes[-1].set_xlabel("time in the episode (s)")
        handles = [
            Line2D([], [], color=ORANGE, linewidth=2.8, label="recorded"),
            Line2D([], [], color=BLUE, linewidth=1.1, marker=".", label="predicted, from its dot"),
        ]
        page.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def plot_subtasks(path: Path, fps: float, episodes: Sequence[EpisodeSubtasks]) -> None:
    """Draws which subtask was in force when, as recorded and as planned.

    Args:
        path: Of the PNG.
        fps: Frames in a second.
        episodes: One or more; more than ``MAX_EPISODES`` are left out.
    """
    recorded = Counter(text for e in episodes for text in next(iter(e.lanes.values())))
    texts = [text for text, _ in recorded.most_common(len(SUBTASK_COLOURS))]
    colours = dict(zip(texts, SUBTASK_COLOURS, strict=False))
    with _page(path, min(len(episodes), MAX_EPISODES), 1, 1.0) as (page, axes):
        page.suptitle("Subtasks, as recorded and as planned")
        for episode, ax in zip(episodes, axes, strict=False):
            step = float(np.diff(episode.frames).min()) if len(episode.frames) > 1 else 1.0
            for height, lane in enumerate(reversed([*episode.lanes.values()])):
                for first, last, text in _stretches(episode.frames, lane, step):
                    width = (last + step - first) / fps
                    colour = colours.get(text, GREY)
                    ax.barh(height, width, 0.82, first / fps, color=colour, linewidth=0)
            ax.set_yticks(range(len(episode.lanes)), list(episode.lanes)[::-1])
            ax.set_title(f"episode {episode.episode}")
            ax.set_xmargin(0.0)
            ax.grid(visible=False)
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
        axes[-1].set_xlim(left=0.0)
        axes[-1].set_xlabel("time in the episode (s)")
        handles = [Patch(color=c, label=printable(text, 60)) for text, c in colours.items()]
        if any(text not in colours for e in episodes for lane in e.lanes.values() for text in lane):
            handles.append(Patch(color=GREY, label="another text"))
        page.legend(handles=handles, loc="outside lower center", ncols=2)


def _stretches(
    frames: npt.NDArray[np.int64], texts: Sequence[str], step: float
) -> list[tuple[int, int, str]]:
    """First and last frame of every stretch of one text; a gap in the frames ends a stretch."""
    stretches: list[tuple[int, int, str]] = []
    for frame, text in zip(frames.tolist(), texts, strict=True):
        if stretches and stretches[-1][2] == text and frame - stretches[-1][1] <= step:
            stretches[-1] = (stretches[-1][0], frame, text)
        else:
            stretches.append((frame, frame, text))
    return stretches


@contextmanager
def _page(
    path: Path, count: int, columns: int, height: float
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A page of ``count`` axes, ``height`` inches each; it is written at the end, whole."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    with plot_pages.page(path, 11.0, 1.4 + rows * height) as page:
        axes = page.subplots(rows, columns, squeeze=False, sharex=True).flatten().tolist()
        for unused in axes[count:]:
            unused.set_visible(False)
        yield page, axes[:count]
