# SPDX-License-Identifier: Apache-2.0
"""Sizes and constants of a pi0.5."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionSize:
    """A SigLIP encoder.

    Attributes:
        width: Of a token.
        depth: Layers.
        mlp: Width of the MLPs.
        heads: Of attention.
        patch: Side of a patch, px.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    patch: int


@dataclass(frozen=True)
class GemmaSize:
    """A Gemma.

    Attributes:
        width: Of a token.
        depth: Layers.
        mlp: Width of the MLPs.
        heads: Of queries.
        kv_heads: Of keys and values.
        head_dim: Of a head.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Pi05Config:
    """A pi0.5 of any size.

    The action expert attends to the keys and values of the language model layer by layer, so
    both have as many layers, heads of keys and values, and elements in a head.

    Attributes:
        vision: Encodes pictures.
        language: Reads pictures and prompt, and writes subtasks.
        expert: Denoises actions.
        vocabulary: Rows of the token embedding.
        image_size: Side of the square pictures, px.
        chunk: Actions in a chunk, T.
        max_state_dim: Numbers of the state that a prompt holds, padded.
        max_action_dim: Elements of an action, padded, A.
        steps: Euler steps of denoising.
        max_prompt_tokens: Longest prompt.
        max_subtask_tokens: Longest subtask with its end token.
        max_delay: Most actions at the start of a chunk that training gives as already decided
            (real-time chunking); 0 for a model that was not trained so.
        pad_state: Whether prompts hold ``max_state_dim`` numbers, or only the robot's own.
        min_period: Shortest period of the embedding of flow time.
        max_period: Longest.
    """

    vision: VisionSize
    language: GemmaSize
    expert: GemmaSize
    vocabulary: int
    image_size: int
    chunk: int = 50
    max_state_dim: int = 32
    max_action_dim: int = 32
    steps: int = 10
    max_prompt_tokens: int = 200
    max_subtask_tokens: int = 32
    max_delay: int = 0
    pad_state: bool = True
    min_period: float = 4e-3
    max_period: float = 4.0

    def __post_init__(self) -> None:
        """Checks that the parts fit.

        Raises:
            ValueError: They do not.
        """
        for name in ("depth", "kv_heads", "head_dim"):
            ours, theirs = getattr(self.language, name), getattr(self.expert, name)
            if ours != theirs:
                raise ValueError(f"{name}: language {ours}, expert {theirs}; expected equal")
        for name, size in (("language", self.language), ("expert", self.expert)):
            if size.heads % size.kv_heads:
                raise ValueError(
                    f"{name}: {size.heads} heads, expected a multiple of kv_heads {size.kv_heads}"
                )
        if self.expert.width % 2 or self.language.head_dim % 2:
            raise ValueError("the expert's width and head_dim must be even")
        if self.vision.width % self.vision.heads:
            raise ValueError(
                f"vision: width {self.vision.width}, expected a multiple of its "
                f"{self.vision.heads} heads"
            )
        if self.image_size < self.vision.patch:
            raise ValueError(
                f"image_size {self.image_size}, expected a patch of {self.vision.patch} at least"
            )
        if not 0 <= self.max_delay < self.chunk:
            raise ValueError(f"max_delay {self.max_delay}, expected 0 to {self.chunk - 1}")

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture."""
        return (self.image_size // self.vision.patch) ** 2


def full() -> Pi05Config:
    """PaliGemma-3B with the 300M expert: the published pi0.5."""
    return Pi05Config(
        vision=VisionSize(width=1152, depth=27, mlp=4304, heads=16, patch=14),
        language=GemmaSize(width=2048, depth=18, mlp=16384, heads=8, kv_heads=1, head_dim=256),
        expert=GemmaSize(width=1024, depth=18, mlp=4096, heads=8, kv_heads=1, head_dim=256),
        vocabulary=257152,
        image_size=224,
    )


def medium() -> Pi05Config:
    """170M parameters, for a small GPU."""
    return Pi05Config(
        vision=VisionSize(width=384, depth=12, mlp=1536, heads=6, patch=16),
        language=GemmaSize(width=768, depth=12, mlp=3072, heads=8, kv_heads=1, head_dim=96),
        expert=GemmaSize(width=384, depth=12, mlp=1536, heads=8, kv_heads=1, head_dim=96),
        vocabulary=8192,
        image_size=224,
    )


def small() -> Pi05Config:
    """3.7M parameters: trains on a CPU from nothing."""
    return Pi05Config(
        vision=VisionSize(width=128, depth=3, mlp=384, heads=4, patch=16),
        language=GemmaSize(width=192, depth=4, mlp=512, heads=4, kv_heads=1, head_dim=48),
        expert=GemmaSize(width=128, depth=4, mlp=384, heads=4, kv_heads=1, head_dim=48),
        vocabulary=1024,
        image_size=96,
        chunk=16,
        max_state_dim=8,
        max_action_dim=8,
        max_prompt_tokens=64,
        max_subtask_tokens=16,
        max_delay=4,
    )


def tiny() -> Pi05Config:
    """For tests: a forward takes milliseconds."""
    return Pi05Config(
        vision=VisionSize(width=32, depth=2, mlp=48, heads=2, patch=16),
        language=GemmaSize(width=32, depth=2, mlp=64, heads=4, kv_heads=1, head_dim=16),
        expert=GemmaSize(width=32, depth=2, mlp=48, heads=4, kv_heads=1, head_dim=16),
        vocabulary=512,
        image_size=32,
        chunk=8,
        max_state_dim=8,
        max_action_dim=8,
        max_prompt_tokens=64,
        max_subtask_tokens=16,
        max_delay=4,
    )


SIZES = {"full": full, "medium": medium, "small": small, "tiny": tiny}
"""By name."""
