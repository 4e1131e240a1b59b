# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from loading_samples import colours
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from vla_training.data.errors import DataError
from vla_training.data.loading.augmentation import Augmentation, crop_and_turn, recolour

HEIGHT, WIDTH = 96, 128
PICTURE = colours(0, 0, HEIGHT, WIDTH)
TENSOR = torch.from_numpy(PICTURE).permute(2, 0, 1)
BILINEAR = v2.InterpolationMode.BILINEAR


def inner(picture: np.ndarray) -> np.ndarray:
    """Without the rim, where libraries differ in what they put outside; float."""
    return picture[12:-12, 12:-12].astype(float)


def pictures(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("place", "left", "top"), [((0, 0), 0, 0), ((1, 1), 32, 24), ((1, 0), 32, 0)]
)
def test_a_crop_is_that_of_torchvision(place, left, top):
    ours = crop_and_turn(PICTURE, 0.75, place, 0.0)
    theirs = reference.resized_crop(TENSOR, top, left, 72, 96, [HEIGHT, WIDTH], BILINEAR)
    assert np.abs(inner(ours) - inner(pictures(theirs))).max() <= 2


@pytest.mark.parametrize("angle", [-5.0, 3.0])
def test_a_turn_is_that_of_torchvision(angle):
    ours = crop_and_turn(PICTURE, 1.0, (0.5, 0.5), angle)
    theirs = reference.rotate(TENSOR, angle, BILINEAR)
    assert np.abs(inner(ours) - inner(pictures(theirs))).max() <= 3


@pytest.mark.parametrize(
    "factors", [(0.7, 1.0, 1.0), (1.0, 0.6, 1.0), (1.0, 1.0, 0.5), (0.8, 1.1, 1.3)]
)
def test_colours_change_as_in_torchvision(factors):
    mild = (64 + PICTURE // 2).astype(np.uint8)  # nothing is cut off on the way
    brightness, contrast, saturation = factors
    theirs = reference.to_dtype(torch.from_numpy(mild).permute(2, 0, 1), torch.float32, scale=True)
    theirs = reference.adjust_brightness(theirs, brightness)
    theirs = reference.adjust_contrast(theirs, contrast)
    theirs = reference.adjust_saturation(theirs, saturation)
    assert np.abs(recolour(mild, *factors) - 255.0 * pictures(theirs)).max() <= 1.0


def test_colours_are_cut_off_and_do_not_wrap():
    bright = recolour(np.full((8, 8, 3), 250, np.uint8), 1.3, 1.0, 1.0)
    assert (bright == 255).all()


def test_nothing_changes_where_nothing_is_asked_for():
    same = Augmentation(crop=1.0, rotation=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
    assert torch.equal(same({"front": TENSOR}, (0, 1))["front"], TENSOR)


def test_a_picture_follows_from_its_seed():
    augment = Augmentation()
    one, again, other = (augment({"front": TENSOR}, s)["front"] for s in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_every_camera_is_changed_on_its_own():
    changed = Augmentation()({"front": TENSOR, "side": TENSOR}, (0,))
    assert not torch.equal(changed["front"], changed["side"])


def test_size_and_type_stay_and_the_original_too():
    before = TENSOR.clone()
    changed = Augmentation()({"front": TENSOR}, (0,))["front"]
    assert changed.shape == TENSOR.shape
    assert changed.dtype == torch.uint8
    assert torch.equal(TENSOR, before)


def moves(augmentation: Augmentation, camera: str) -> bool:
    """Whether a white dot in the middle of a black picture is spread or moved."""
    dot = torch.zeros(3, 65, 65, dtype=torch.uint8)
    dot[:, 20, 40] = 255
    still = Augmentation(augmentation.crop, augmentation.rotation, 0.0, 0.0, 0.0)
    still = Augmentation(**{**vars(still), "colour_only": augmentation.colour_only})
    return not torch.equal(still({camera: dot}, (4,))[camera], dot)


def test_wrist_cameras_keep_their_geometry():
    assert moves(Augmentation(), "front")
    assert not moves(Augmentation(), "left_wrist")
    assert not moves(Augmentation(), "leftWrist")
    assert moves(Augmentation(colour_only=("hand",)), "left_wrist")
    assert not moves(Augmentation(colour_only=("hand",)), "hand")


def test_wrist_cameras_change_their_colours():
    assert not torch.equal(Augmentation()({"wrist": TENSOR}, (0,))["wrist"], TENSOR)


def test_crops_reach_every_edge_and_stay_inside():
    """A picture of its own coordinates shows which part was taken."""
    x, y = np.meshgrid(np.arange(128), np.arange(128))
    coordinates = np.stack([x, y, x], -1).astype(np.uint8)
    tensor = torch.from_numpy(coordinates).permute(2, 0, 1)
    augment = Augmentation(crop=0.75, rotation=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
    corners = np.array([augment({"front": tensor}, (s,))["front"][:2, 64, 64] for s in range(200)])
    assert corners.min() >= 64 - 16 - 1
    assert corners.max() <= 64 + 16 + 1
    assert (corners.min(axis=0) < 52).all()
    assert (corners.max(axis=0) > 76).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("crop", 0.0), ("crop", 1.2), ("rotation", -5.0), ("contrast", 1.5), ("saturation", math.nan)],
)
def test_settings_that_would_shrink_or_invert_pictures_are_refused(setting, value):
    with pytest.raises(DataError, match=f"{setting} is {value}, expected"):
        Augmentation(**{setting: value})
