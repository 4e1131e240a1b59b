# SPDX-License-Identifier: Apache-2.0
"""A dataset as the tests want it: small, good, made by LeRobot itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bag_samples import EPOCH, SECOND, picture, position
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_nodes.contract import Contract
from vla_training.data.schema import (
    ACTION,
    BAG_TIME,
    OUTCOME,
    STATE,
    SUBTASK,
    SUBTASK_INDEX,
    DatasetSchema,
    image_key,
)

FPS = 10
LENGTHS = (24, 18, 18)
SUBTASKS = ("reach", "place")
TASKS = ("stack the cups", "wipe the table")


def make_dataset(root: Path, contract: Contract) -> Path:
    """Three episodes of two cameras, a minute apart in their recording."""
    schema = DatasetSchema.of(contract, FPS)
    dataset = LeRobotDataset.create(
        repo_id=root.name,
        fps=FPS,
        features=schema.features,
        root=root,
        robot_type=contract.robot,
        rgb_encoder=RGBEncoderConfig(vcodec="h264", crf=20, preset="ultrafast"),
    )
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            stamp = time_of(episode, frame)
            dataset.add_frame(
                {
                    STATE: position(stamp).astype(np.float32),
                    ACTION: position(stamp + SECOND // 2).astype(np.float32),
                    image_key("front"): picture(stamp, 64, 48),
                    image_key("wrist"): picture(stamp + SECOND, 64, 64),
                    BAG_TIME: np.array([stamp]),
                    SUBTASK: SUBTASKS[frame >= 9],
                    SUBTASK_INDEX: np.array([int(frame >= 9)]),
                    OUTCOME: np.array([1]),
                    "task": TASKS[episode % 2],
                }
            )
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    pd.DataFrame(
        {"subtask_index": range(len(SUBTASKS))}, index=pd.Index(SUBTASKS, name="subtask")
    ).to_parquet(root / "meta/subtasks.parquet")
    return root


def time_of(episode: int, frame: int) -> int:
    """Time of a frame in the recording, ns."""
    return EPOCH + 60 * SECOND * episode + frame * SECOND // FPS


def edit_json(file: Path, **values: Any) -> None:
    """Sets keys of a JSON object; ``a.b`` is b in a."""
    content = json.loads(file.read_text())
    for name, value in values.items():
        *parents, last = name.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    file.write_text(json.dumps(content))


def edit_table(file: Path, edit: Any) -> None:
    """Rewrites a table after ``edit(frame)`` changed it, keeping the types of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    frame = table.to_pandas()
    result = edit(frame)
    frame = frame if result is None else result
    pq.write_table(pa.Table.from_pandas(frame, table.schema, preserve_index=None), file)
