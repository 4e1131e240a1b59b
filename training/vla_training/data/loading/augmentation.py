# SPDX-License-Identifier: Apache-2.0
"""Pictures as another day, light and camera mount would have shown them; for training alone.

Crop, turn and scale are one interpolation, and brightness, contrast and saturation one matrix.
The same through ``torchvision.transforms.v2`` takes about eight times as long, longer than
decoding the picture does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from vla_training.data.errors import DataError

Rgb = npt.NDArray[np.uint8]

LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed; every camera's on its own.

    Attributes:
        crop: Share of width and height that is kept, anywhere in the picture, and scaled up
            to the size of the whole; at most 1.
        rotation: Degrees, at most, either way. What turns into view is black.
        brightness: Factors from 1 - this to 1 + this, of 1 at most; likewise the next two.
        contrast: About the picture's mean grey.
        saturation: About each pixel's own grey.
        colour_only: Cameras that are neither cropped nor turned, because they move with the
            gripper; None for those with ``wrist`` in their name.
    """

    crop: float = 0.95
    rotation: float = 5.0
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5
    colour_only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses what would shrink, blow up or invert pictures.

        Raises:
            DataError: A setting is out of its range.
        """
        if not 0.0 < self.crop <= 1.0:
            raise DataError(f"crop is {self.crop}, expected more than 0 and at most 1")
        if not 0.0 <= self.rotation <= 180.0:
            raise DataError(f"rotation is {self.rotation}, expected 0 to 180 degrees")
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise DataError(f"{name} is {getattr(self, name)}, expected 0 to 1")

    def __call__(
        self, images: Mapping[str, torch.Tensor], seed: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Changes the pictures of one item.

        Args:
            images: By camera, (3, H, W) uint8.
            seed: Not negative; pictures and seed alone decide what comes out.

        Returns:
            As ``images``, in new memory.
        """
        rng = np.random.default_rng(seed)
        return {camera: self._change(camera, image, rng) for camera, image in images.items()}

    def _change(self, camera: str, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        picture = image.permute(1, 2, 0).numpy()
        angle = rng.uniform(-self.rotation, self.rotation)
        x, y = rng.uniform(0.0, 1.0, 2)
        jitter = (self.brightness, self.contrast, self.saturation)
        factors = [rng.uniform(1.0 - spread, 1.0 + spread) for spread in jitter]
        if not self._is_colour_only(camera):
            picture = crop_and_turn(picture, self.crop, (x, y), angle)
        return torch.from_numpy(recolour(picture, *factors)).permute(2, 0, 1)

    def _is_colour_only(self, camera: str) -> bool:
        return "wrist" in camera.lower() if self.colour_only is None else camera in self.colour_only


def crop_and_turn(picture: Rgb, share: float, place: tuple[float, float], angle: float) -> Rgb:
    """Scales a part of a picture up to the size of the whole, and turns it about its middle.

    Args:
        picture: (H, W, 3).
        share: Of width and of height.
        place: From (0, 0), the part at top left, to (1, 1) at bottom right.
        angle: Degrees, anticlockwise.

    Returns:
        (H, W, 3).
    """
    height, width = picture.shape[:2]
    size = np.array([width, height])
    middle = (size - 1) / 2
    centre = middle + (np.array(place) - 0.5) * (1.0 - share) * size
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, 1.0 / share)
    matrix[:, 2] += middle - centre
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height)), np.uint8)


def recolour(picture: Rgb, brightness: float, contrast: float, saturation: float) -> Rgb:
    """Changes brightness, then contrast, then saturation, each by a factor.

    Args:
        picture: (H, W, 3) RGB.
        brightness: 0 is black, 1 leaves the picture as it is.
        contrast: 0 is the mean grey throughout.
        saturation: 0 is grey.

    Returns:
        (H, W, 3); values are cut off at 0 and 255 at the end only.
    """
    grey = brightness * float(LUMA @ cv2.mean(picture)[:3])
    saturate = saturation * np.eye(3) + (1.0 - saturation) * LUMA
    matrix = np.column_stack([brightness * contrast * saturate, np.full(3, (1 - contrast) * grey)])
    return np.asarray(cv2.transform(picture, matrix), np.uint8)
