# SPDX-License-Identifier: Apache-2.0
"""Checks on what the rows of a dataset hold: finite numbers, and motions the robot can make."""

from collections.abc import Iterator

import numpy as np

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.errors import shown
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding, Level, graded
from vla_training.data.checks.joint_logs import Values
from vla_training.data.checks.motions import (
    Motion,
    check_idle,
    check_jumps,
    check_limits,
    check_standstill,
    check_stuck,
)
from vla_training.data.schema import ACTION, BAG_TIME, STATE, DatasetSchema
from vla_training.data.stamps import SECOND


def check_finite(dataset: Dataset) -> Iterator[Finding]:
    """State and action hold no NaN and no infinity; labels may be left open."""
    for key in dataset.vectors:
        values = dataset.columns[key]
        if not np.issubdtype(values.dtype, np.floating):
            continue
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        level = graded(bad.any() and key in (STATE, ACTION), bad.any())
        text = f"row {int(np.argmax(bad))} is not finite" if bad.any() else "finite in every row"
        yield Finding("finite", key, level, text, int(bad.sum()), 0)


def check_features(dataset: Dataset, contract: Contract) -> Iterator[Finding]:
    """Columns, names, pictures and rate are what the contract says."""
    expected = DatasetSchema.of(contract, dataset.fps).features
    for key, feature in expected.items():
        found = dataset.features.get(key)
        if found is None:
            # The columns beside state, action and cameras are there where this converter made it.
            needed = key in (STATE, ACTION) or feature["dtype"] == "video"
            yield Finding("feature", key, graded(needed, True), "the dataset has no such column")
        elif feature["dtype"] == "video":
            yield _check_pictures(dataset, key, feature["shape"][:2])
        elif feature["names"] is not None:
            yield _check_names(key, found.get("names"), feature["names"])
    text = f"{dataset.fps} frames a second, the contract says {contract.fps:g}"
    other = dataset.fps != contract.fps
    yield Finding("feature", "fps", graded(other), text, dataset.fps, contract.fps)


def check_values(dataset: Dataset, contract: Contract) -> Iterator[Finding]:
    """Measured and commanded positions are those of a robot that works."""
    states, actions = _motion(dataset, STATE, contract), _motion(dataset, ACTION, contract)
    factor = contract.checks.max_joint_jump
    cases: list[tuple[Motion | None, Level]] = [(states, "fail"), (actions, "warn")]
    for motion, level in cases:
        if motion is not None:
            yield from check_jumps(motion, factor, level)
            yield from check_limits(motion)
            yield from check_standstill(motion)
    if states is not None and actions is not None:
        yield from check_stuck(states, actions.values)
        measured = states.values[:, list(contract.measured_index)]
        yield check_idle(ACTION, contract.action_names, actions.values, measured)


def states_of(dataset: Dataset) -> Values | None:
    """(N, S) float64; None for a dataset without states."""
    values = dataset.columns.get(STATE)
    return None if values is None or values.ndim != 2 else values.astype(np.float64)


def _check_pictures(dataset: Dataset, key: str, wanted: tuple[int, int]) -> Finding:
    if dataset.features[key]["dtype"] not in ("image", "video"):
        text = f"is of {shown(dataset.features[key]['dtype'])}, expected pictures"
        return Finding("feature", key, "fail", text)
    size = dataset.picture_size(key)
    text = "pictures are of {1} x {0} px".format(*size)
    if size != wanted:
        text += ", those of the contract of {1} x {0}".format(*wanted)
    return Finding("feature", key, graded(False, size != wanted), text)


def _check_names(key: str, found: object, wanted: list[str]) -> Finding:
    # Some datasets keep the names under a heading, as in {"motors": [...]}.
    names = next(iter(found.values()), None) if isinstance(found, dict) and found else found
    if names == wanted:
        return Finding("feature", key, "ok", f"{len(wanted)} values, named as in the contract")
    text = f"is of {shown(names, 200)}, the contract says {shown(wanted, 200)}"
    return Finding("feature", key, "fail", text)


def _motion(dataset: Dataset, key: str, contract: Contract) -> Motion | None:
    """A column of joint values; None where it is not there or not of the contract's width."""
    names = contract.state_names if key == STATE else contract.action_names
    values = dataset.columns.get(key)
    if values is None or values.shape[1:] != (len(names),) or not np.isfinite(values).all():
        return None
    limits = dict(enumerate(contract.limits))
    if key == STATE:
        limits = {state: limits[i] for i, state in enumerate(contract.measured_index)}
    frames = dataset.columns["frame_index"]
    episodes = dataset.columns["episode_index"]
    stamps = dataset.columns.get(BAG_TIME)
    if stamps is None:
        stamps = frames * (SECOND // dataset.fps)
    return Motion(
        subject=key,
        names=names,
        values=values.astype(np.float64),
        stamps=stamps,
        when=lambda row: f"episode {episodes[row]} frame {frames[row]}",
        limits=[limits.get(i) for i in range(len(names))],
        begins=frames == 0,
    )
