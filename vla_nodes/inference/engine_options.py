# SPDX-License-Identifier: Apache-2.0
"""How an engine is to run."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

STATIC_BUCKET = 32
"""Prompts grow and shrink with the digits of the state; with 3 pictures, 3 percent is padding."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class EngineOptions:
    """How to run.

    Attributes:
        device: As PyTorch names it.
        dtype: "float32" or "bfloat16"; actions are float32 in either.
        candidates: Chunks to draw at once, K.
        steps: Of denoising; None for the configuration's.
        hidden: Whether ``act`` returns the prefix's last hidden states.
        compile: Compiles by ``torch.compile``, which takes minutes once. On a CUDA device it
            merges the small steps between products, of which there are several thousand a call.
        cuda_graphs: Whether calls on a CUDA device are captured.
        bucket: Texts are padded to a multiple of this many tokens; 1 for exact lengths. None: 32
            where every new length costs a compilation or a capture, otherwise 1.
        real_time: How ``act`` takes decided actions: "trained", as given, for a model that was
            trained so; "guided", by guidance, for any.
        max_guidance: Limit of that guidance.
        end_token: Ends a subtask.
        seed: Of the noise.
    """

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    candidates: int = 1
    steps: int | None = None
    hidden: bool = False
    compile: bool = False
    cuda_graphs: bool = True
    bucket: int | None = None
    real_time: Literal["trained", "guided"] = "trained"
    max_guidance: float = 5.0
    end_token: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: One is not possible.
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        if self.real_time not in ("trained", "guided"):
            raise ValueError(f"real_time {self.real_time!r}, expected trained or guided")
        for name in ("candidates", "steps", "bucket"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}, expected 1 or more")
        if not 0 < self.max_guidance < math.inf:
            raise ValueError(f"max_guidance {self.max_guidance}, expected above 0 and finite")
        try:
            kind = torch.device(self.device).type
        except RuntimeError as error:
            raise ValueError(
                f"device {self.device!r}, expected one such as cpu or cuda:0"
            ) from error
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {self.device!r}, but PyTorch finds no CUDA device here")

    @property
    def captures(self) -> bool:
        """Whether calls are captured as CUDA graphs."""
        return self.cuda_graphs and torch.device(self.device).type == "cuda"

    @property
    def multiple(self) -> int:
        """Of how many tokens prompts are made a multiple."""
        return self.bucket or (STATIC_BUCKET if self.captures or self.compile else 1)
