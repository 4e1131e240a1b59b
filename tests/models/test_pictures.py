# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from lerobot.policies.common.vla_utils import resize_with_pad_torch

from vla_nodes.models.pictures import fit_pictures, scale_pictures


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_black_becomes_minus_one_and_white_one_exactly():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 256).expand(3, 1, 256)
    scaled = scale_pictures(values)
    assert scaled.dtype == torch.float32
    assert scaled[0, 0, 0].item() == -1.0
    assert scaled[0, 0, 255].item() == 1.0
    expected = torch.linspace(-1, 1, 256, dtype=torch.float64)
    torch.testing.assert_close(scaled[0, 0].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", [scale_pictures, lambda p: fit_pictures(p, 4)])
def test_pictures_cannot_be_scaled_twice(change):
    once = change(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"float32.*expected uint8"):
        change(once)


@pytest.mark.parametrize("size", [8, 12])
def test_what_was_given_stays_as_it_was(size: int):
    pictures = noise(1, 3, 8, 8)
    before = pictures.clone()
    scale_pictures(pictures)
    fit_pictures(pictures, size)
    assert torch.equal(pictures, before)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (48, 64, 32),  # wide, made smaller
        (64, 48, 32),  # tall
        (64, 64, 32),  # square
        (24, 33, 96),  # wide, made larger
        (33, 24, 96),
        (20, 20, 96),
        (96, 96, 96),  # as it should be
        (48, 64, 33),  # an odd row of black
        (64, 47, 33),
        (480, 640, 224),  # cameras as they are
        (720, 1280, 224),
        (1080, 1920, 224),
        (90, 49, 49),  # sides whose ratio is not exact
    ],
)
def test_pictures_are_fitted_as_lerobot_does(height: int, width: int, size: int):
    pictures = noise(2, 3, height, width)
    fitted = fit_pictures(pictures, size)
    expected = resize_with_pad_torch(pictures.float() / 255, size, size) * 2 - 1
    assert fitted.shape == (2, 3, size, size)
    torch.testing.assert_close(fitted, expected, atol=2e-6, rtol=0)


def test_the_memory_layout_changes_nothing():
    pictures = noise(2, 3, 30, 40)
    turned = pictures.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fit_pictures(turned, 24), fit_pictures(pictures, 24))


def test_what_is_added_is_black():
    fitted = fit_pictures(torch.full((1, 3, 10, 20), 255, dtype=torch.uint8), 20)
    assert (fitted[..., :5, :] == -1).all()
    assert (fitted[..., 15:, :] == -1).all()
    torch.testing.assert_close(fitted[..., 5:15, :], torch.ones(1, 3, 10, 20))
