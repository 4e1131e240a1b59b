# SPDX-License-Identifier: Apache-2.0
"""Sizes of a value function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vla_nodes.models.pi05_config import GemmaSize, VisionSize

Arch = Literal["cross-attention", "stitched"]
TYPE = "vla_value"
"""Of a checkpoint, in its ``config.json``."""
INTERFACE = "value.json"
"""File of a checkpoint that says what it was trained for."""
ARCHS: tuple[Arch, ...] = ("cross-attention", "stitched")


@dataclass(frozen=True)
class ValueConfig:
    """A value function of any size.

    Attributes:
        arch: How pictures and text meet: the text attends to the pictures before both run
            through the language model ("cross-attention"), or the pictures stand in the text
            ("stitched").
        vision: SigLIP, which encodes pictures.
        language: Gemma 3, which reads pictures and text.
        window: Places that its local layers look at, five of six, to either side.
        vocabulary: Rows of its token embedding.
        image_size: Side of the square pictures, px.
        history: Frames of each camera that it looks at, the newest among them.
        history_step: Seconds between those.
        max_tokens: Longest text.
        attention_heads: Of the cross attention.
    """

    arch: Arch
    vision: VisionSize
    language: GemmaSize
    window: int
    vocabulary: int
    image_size: int
    history: int = 1
    history_step: float = 0.5
    max_tokens: int = 48
    attention_heads: int = 8

    def __post_init__(self) -> None:
        """Checks that the parts fit.

        Raises:
            ValueError: They do not.
        """
        if self.arch not in ARCHS:
            raise ValueError(f"arch is {self.arch!r:.50}, expected {' or '.join(ARCHS)}")
        for name, width, heads in (
            ("vision", self.vision.width, self.vision.heads),
            ("language", self.language.width, self.attention_heads),
            ("language", self.language.width, self.language.heads),
            ("language", self.language.heads, self.language.kv_heads),
        ):
            if width % heads:
                raise ValueError(f"{name}: {width}, expected a multiple of {heads} heads")
        if self.language.head_dim % 2:
            raise ValueError(f"language: head_dim is {self.language.head_dim}, expected it even")
        if self.image_size < self.vision.patch:
            raise ValueError(
                f"image_size {self.image_size}, expected a patch of {self.vision.patch} at least"
            )
        if self.history < 1 or self.max_tokens < 8 or self.window < 1:
            raise ValueError(
                f"history {self.history}, max_tokens {self.max_tokens} and window {self.window}, "
                "expected at least 1, 8 and 1"
            )
        if not 0.0 < self.history_step <= 60.0:
            raise ValueError(
                f"history_step is {self.history_step:g} s, expected more than 0, up to 60"
            )

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture, P."""
        return (self.image_size // self.vision.patch) ** 2

    @property
    def image_id(self) -> int:
        """Stands for a token of a picture in a text; beyond the vocabulary."""
        return self.vocabulary

    def views(self, cameras: int) -> int:
        """Pictures that it looks at, V."""
        return cameras * self.history


def full(arch: Arch) -> ValueConfig:
    """SigLIP So400m/14 and Gemma 3 270M."""
    return ValueConfig(
        arch=arch,
        vision=VisionSize(width=1152, depth=27, mlp=4304, heads=16, patch=14),
        language=GemmaSize(width=640, depth=18, mlp=2048, heads=4, kv_heads=1, head_dim=256),
        window=512,
        vocabulary=262144,
        image_size=224 if arch == "cross-attention" else 384,
    )


def small(arch: Arch) -> ValueConfig:
    """1.4M parameters: trains on a CPU from nothing."""
    return ValueConfig(
        arch=arch,
        vision=VisionSize(width=128, depth=3, mlp=384, heads=4, patch=16),
        language=GemmaSize(width=128, depth=3, mlp=384, heads=4, kv_heads=1, head_dim=32),
        window=512,
        vocabulary=1024,
        image_size=96,
        attention_heads=4,
    )


def tiny(arch: Arch) -> ValueConfig:
    """For tests: a forward takes milliseconds."""
    return ValueConfig(
        arch=arch,
        vision=VisionSize(width=32, depth=2, mlp=48, heads=2, patch=16),
        language=GemmaSize(width=32, depth=2, mlp=48, heads=4, kv_heads=1, head_dim=16),
        window=512,
        vocabulary=512,
        image_size=32,
        attention_heads=2,
    )


SIZES: dict[str, Callable[[Arch], ValueConfig]] = {"full": full, "small": small, "tiny": tiny}
"""By name."""
