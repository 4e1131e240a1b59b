# SPDX-License-Identifier: Apache-2.0
"""Pictures as models want them."""

import torch
from torch import Tensor
from torch.nn import functional


def scale_pictures(pictures: Tensor) -> Tensor:
    """Pictures as models want them: black is -1, white 1.

    Nothing else scales pictures, and what was scaled is refused here, so that it happens
    exactly once.

    Args:
        pictures: (..., 3, H, W) uint8.

    Returns:
        (..., 3, H, W) float32.

    Raises:
        TypeError: They are not uint8.
    """
    if pictures.dtype != torch.uint8:
        raise TypeError(f"pictures are {pictures.dtype}, expected uint8 from 0 to 255")
    return pictures.float().div_(127.5).sub_(1.0)


def fit_pictures(pictures: Tensor, size: int) -> Tensor:
    """Pictures scaled, and fitted undistorted into a square with black around them.

    The numbers are those of openpi and LeRobot: bilinear without antialiasing, the sides of
    the fitted picture rounded down, and an odd row or column of black at the end.

    Args:
        pictures: (B, 3, H, W) uint8.
        size: Side of the square, px.

    Returns:
        (B, 3, size, size) float32, black -1, white 1.

    Raises:
        TypeError: They are not uint8.
    """
    scaled = scale_pictures(pictures)
    height, width = scaled.shape[-2:]
    if (height, width) == (size, size):
        return scaled
    ratio = max(width / size, height / size)
    height, width = int(height / ratio), int(width / ratio)
    fitted = functional.interpolate(scaled, (height, width), mode="bilinear", align_corners=False)
    top, left = (size - height) // 2, (size - width) // 2
    edges = (left, size - width - left, top, size - height - top)
    return functional.pad(fitted, edges, value=-1.0)
