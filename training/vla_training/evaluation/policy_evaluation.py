# SPDX-License-Identifier: Apache-2.0
"""A policy on recorded episodes, open loop: it is shown every frame, and the recording goes on."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vla_nodes.models.checkpoint import Checkpoint
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05 import Pi05, Pi05Batch
from vla_nodes.models.prompts import ACTION_MARK
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.collation import Batch
from vla_training.data.loading.frame_table import read_frame_table
from vla_training.data.loading.loaders import evaluation_loader
from vla_training.data.loading.training_set import TrainingSet
from vla_training.evaluation.action_errors import (
    BEST,
    HOLD,
    MEAN,
    POLICY,
    ActionErrors,
    Array,
    best_candidate,
    held_position,
    mean_chunk,
)
from vla_training.evaluation.planning import Seen, choose_subtasks, write_subtasks
from vla_training.evaluation.subtask_scores import Planned
from vla_training.policy_inputs.policy_batches import PolicyBatches
from vla_training.policy_inputs.policy_frames import frame_noise, open_frames, show


@dataclass(frozen=True, eq=False)
class Recording:
    """What a policy is held against.

    Attributes:
        items: Frames of the episodes that were asked for.
        normalization: Of the checkpoint, with the dataset's names.
        mean: (T, A) mean chunk of the whole dataset.
        known: Subtasks that the planner may choose from; none where the dataset has none.
    """

    items: TrainingSet
    normalization: Normalization
    mean: Array
    known: tuple[str, ...]

    @property
    def factors(self) -> Array:
        """(A,) normalised units in one of a joint's own."""
        ends = np.array([[0.0], [1.0]]) * np.ones(self.mean.shape[1])
        low, high = self.normalization.action.normalise(ends)
        return high - low


@dataclass(frozen=True)
class Shown:
    """A chunk that was predicted, and the actions that were recorded.

    Attributes:
        episode: Of the dataset.
        frame: In its episode.
        predicted: (T, A).
        recorded: Up to (T, A).
    """

    episode: int
    frame: int
    predicted: Array
    recorded: Array


@dataclass(eq=False)
class Results:
    """What came out; grows batch by batch.

    Attributes:
        errors: By task, then by predictor, in the joints' own units.
        frames: By task.
        planned: Of every frame that has a subtask, in order.
        shown: Of the first episode.
        seconds: That all of it took.
    """

    errors: dict[str, dict[str, ActionErrors]] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    planned: list[Planned] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Frames of all tasks together."""
        return sum(self.frames.values())

    @property
    def total(self) -> dict[str, ActionErrors]:
        """Errors of all tasks together, by predictor."""
        first, *others = self.errors.values()
        return {name: sum((task[name] for task in others), start) for name, start in first.items()}


def open_recording(
    checkpoint: Checkpoint, dataset: Path, episodes: Sequence[int], stride: int
) -> Recording:
    """Opens a dataset for a policy.

    Args:
        checkpoint: Of the policy.
        dataset: Folder of a LeRobot v3 dataset.
        episodes: Indices.
        stride: Take every such frame of an episode only.

    Raises:
        DataError: It cannot be read, lacks a camera, or is of another rate or other joints.
    """
    robot, chunk = checkpoint.robot, checkpoint.config.chunk
    items, normalization = open_frames(checkpoint, dataset, episodes, stride)
    schema, info = items.schema, read_info(items.root)
    every = range(info["total_episodes"])
    table = read_frame_table(items.root, info["features"], schema.fps, every)
    texts = tuple(sorted({*table.subtask.texts} - {""}))
    return Recording(
        items=items,
        normalization=normalization,
        mean=mean_chunk(table.action.astype(np.float64), table.end, chunk),
        known=((robot.subtasks if robot else ()) or texts) if texts else (),
    )


def evaluate_policy(
    checkpoint: Checkpoint,
    model: Pi05,
    recording: Recording,
    *,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
) -> Results:
    """Runs a policy on every frame.

    The actor is told the recorded subtask, so that its errors are its own, and where it was
    trained with advantages, that good actions are wanted. Noise follows from seed, episode and
    frame: neither batches nor stride change it.

    Args:
        checkpoint: Of the policy.
        model: Its model.
        recording: What it is held against.
        samples: Chunks drawn for each frame, K.
        seed: Of the noise, not negative.
        batch_size: Frames at a time.
        workers: Processes that load.

    Raises:
        CheckpointError: It gives actions that are not finite.
        DataError: A picture cannot be read, or a text has more tokens than the model takes.
    """
    batches = PolicyBatches(
        config=checkpoint.config,
        tokenizer=checkpoint.tokenizer,
        normalization=recording.normalization,
        cameras=tuple(recording.items.schema.cameras),
        plans=bool(recording.known),
        acts=True,
        advantage_dropout=0.0,
    )
    device = next(model.parameters()).device
    results, begin = Results(), time.perf_counter()
    loader = evaluation_loader(recording.items, batch_size, workers=workers)
    quiet = not sys.stderr.isatty()
    with tqdm(total=len(recording.items), unit="frame", leave=False, disable=quiet) as bar:
        for batch in loader:
            inputs = show(checkpoint, batches, batch, device)
            assert inputs.actor is not None
            noise = frame_noise(_places(batch), samples, checkpoint.config, seed).to(device)
            drawn = [model.sample_actions(inputs.views, inputs.actor, one) for one in noise]
            chunks = torch.stack(drawn)[..., : recording.mean.shape[1]].double().cpu().numpy()
            if not np.isfinite(chunks).all():
                raise CheckpointError(f"{checkpoint.folder} gives actions that are not finite")
            _compare_actions(results, recording, batch, chunks)
            if inputs.planner is not None:
                _compare_subtasks(results, checkpoint, model, recording.known, batch, inputs)
            bar.update(len(batch))
    results.seconds = time.perf_counter() - begin
    return results


def _places(batch: Batch) -> list[tuple[int, int]]:
    """Episode and frame of every item."""
    return list(zip(batch.episode_index.tolist(), batch.frame_index.tolist(), strict=True))


def _compare_actions(results: Results, recording: Recording, batch: Batch, drawn: Array) -> None:
    candidates = recording.normalization.action.restore(drawn)
    actions, is_pad = batch.actions.double().numpy(), batch.action_is_pad.numpy()
    schema = recording.items.schema
    state = batch.state.double().numpy()
    predicted = {
        POLICY: candidates[0],
        BEST: best_candidate(candidates, actions, is_pad, recording.factors),
        HOLD: held_position(state, schema.state_names, actions, schema.action_names),
        MEAN: np.broadcast_to(recording.mean, actions.shape),
    }
    if len(candidates) == 1:
        del predicted[BEST]
    for task in dict.fromkeys(batch.task):
        rows = np.array([text == task for text in batch.task])
        errors = {
            name: ActionErrors.of(chunks[rows], actions[rows], is_pad[rows])
            for name, chunks in predicted.items()
        }
        before = results.errors.get(task)
        results.errors[task] = {n: before[n] + e if before else e for n, e in errors.items()}
        results.frames[task] = results.frames.get(task, 0) + int(rows.sum())
    for row, (episode, frame) in enumerate(_places(batch)):
        if not results.shown or results.shown[0].episode == episode:
            recorded = actions[row][~is_pad[row]]
            results.shown.append(Shown(episode, frame, candidates[0, row], recorded))


def _compare_subtasks(
    results: Results,
    checkpoint: Checkpoint,
    model: Pi05,
    known: Sequence[str],
    batch: Batch,
    inputs: Pi05Batch,
) -> None:
    """Plans for the frames that have a subtask.

    What a planner with action tokens writes behind its subtask is no part of that.
    """
    assert inputs.planner is not None
    assert inputs.target is not None
    rows = [row for row, subtask in enumerate(batch.subtask) if subtask]
    if not rows:
        return
    places, tokenizer = _places(batch), checkpoint.tokenizer
    with torch.no_grad():
        seen = Seen(inputs.views, model.embed_pictures(inputs.views), inputs.planner).at(rows)
    eos, mark = tokenizer.eos_id, tokenizer.encode(ACTION_MARK)[0]
    expected = [inputs.target.ids[row][inputs.target.mask[row]].tolist() for row in rows]
    written, correct = write_subtasks(
        model, seen, expected, {eos, mark}, checkpoint.config.max_subtask_tokens
    )
    end = checkpoint.subtask_end
    chosen = choose_subtasks(model, seen, [[*tokenizer.encode(text), end] for text in known])
    for place, row in enumerate(rows):
        results.planned.append(
            Planned(
                *places[row],
                task=batch.task[row],
                recorded=batch.subtask[row],
                written=tokenizer.decode(written[place]),
                chosen=known[chosen[place]],
                correct=correct[place],
                tokens=len(expected[place]),
            )
        )
