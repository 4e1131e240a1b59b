# SPDX-License-Identifier: Apache-2.0
"""Checks what a value function is given, and lays it out as its model wants it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_nodes.inference.value_runtime import Features
from vla_nodes.models.pi05_batch import Tokens
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.value_checkpoint import ValueCheckpoint
from vla_nodes.models.value_prompt import value_tokens


def fit_all(pictures: Sequence[NDArray[np.uint8]], size: int, device: str = "cpu") -> Tensor:
    """Pictures as in training.

    Args:
        pictures: M, one at least, each (H, W, 3) uint8.
        size: Side of the squares to be, px.
        device: Where to.

    Returns:
        (M, 3, S, S) float32, black -1, white 1.

    Raises:
        ValueError: A picture has another shape or type.
    """
    fitted = []
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"picture {picture.shape} {picture.dtype}, expected (H, W, 3) uint8")
        if not picture.size:
            raise ValueError(f"picture {picture.shape} is empty")
        # A copy: pictures out of messages cannot be written to, which PyTorch warns of.
        tensor = torch.tensor(picture, device=device).permute(2, 0, 1)[None]
        fitted.append(fit_pictures(tensor, size))
    return torch.cat(fitted)


def arrange(
    views: Mapping[str, Sequence[Features]], cameras: Sequence[str], history: int
) -> list[Features | None]:
    """Features of all views, camera by camera; None where a camera is absent.

    Args:
        views: By camera.
        cameras: In the model's order.
        history: Pictures of each.

    Raises:
        ValueError: A camera is unknown or has another number of pictures, or there is none.
    """
    for camera, features in views.items():
        if camera not in cameras:
            raise ValueError(
                f"camera {camera!r:.100} is unknown to the value function, which was loaded for "
                f"{', '.join(cameras)}"
            )
        if len(features) != history:
            raise ValueError(f"camera '{camera}' has {len(features)} pictures, expected {history}")
    if not views:
        raise ValueError(f"there is no camera, expected one or more of {', '.join(cameras)}")
    return [one for camera in cameras for one in views.get(camera, [None] * history)]


def tokenise(
    checkpoint: ValueCheckpoint, texts: Sequence[str], cameras: int, *, fixed: bool
) -> Tokens:
    """Tokens of texts, (N, L), with places for the pictures of ``cameras``.

    Args:
        checkpoint: Of the model.
        texts: N.
        cameras: There are.
        fixed: Whether L is always the same.

    Raises:
        ValueError: There is none, or one is empty, absurdly long, or has what the tokenizer does
            not know.
    """
    if not texts:
        raise ValueError("there is no text, expected one or more tasks")
    return value_tokens(checkpoint.tokenizer, texts, checkpoint.config, cameras, fixed=fixed)


def check_probabilities(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Passes on numbers.

    Raises:
        RuntimeError: They are none.
    """
    if not np.isfinite(probabilities).all():
        raise RuntimeError("the value function gave probabilities that are no numbers")
    return probabilities
