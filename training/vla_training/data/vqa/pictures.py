# SPDX-License-Identifier: Apache-2.0
"""Pictures from anywhere, decoded within bounds."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps

from vla_training.data.errors import DataError

MAX_BYTES = 64 << 20
"""Of an encoded picture."""
MAX_PIXELS = 50_000_000
"""Of a decoded one; those of large cameras have 25 to 50 million."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_SIDE = 1024  # px that suffice for every model: what is twice as long or more is reduced


def decode_picture(content: bytes, name: str) -> torch.Tensor:
    """Decodes a picture, upright as its EXIF says.

    One that is larger than any model looks at is reduced by averaging blocks, which keeps
    batches small and does not alias; its longer side then has 1024 to 2047 px.

    Args:
        content: The encoded picture, of at most ``MAX_BYTES``.
        name: For errors.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        DataError: It is too large, damaged, or of another kind.
    """
    try:
        # Only the header is read here, so that what is too large is never decoded.
        encoded = Image.open(BytesIO(content), formats=_FORMATS)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            f"{name} is no picture that can be read: {_reason(error)}; expected "
            f"{', '.join(_FORMATS)} of at most {MAX_PIXELS} pixels"
        ) from error
    width, height = encoded.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name} has {width} x {height} pixels, expected at most {MAX_PIXELS} in all"
        )
    if encoded.mode not in _MODES:
        raise DataError(f"{name} is of mode {encoded.mode:.20}, expected 8 bits a channel")
    try:
        picture = ImageOps.exif_transpose(encoded).convert("RGB")
        factor = max(picture.size) // _SIDE
        pixels = np.asarray(picture.reduce(factor) if factor > 1 else picture)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{name} is damaged or cut off: {_reason(error)}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
