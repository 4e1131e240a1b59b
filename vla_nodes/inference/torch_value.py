# SPDX-License-Identifier: Apache-2.0
"""Value functions in PyTorch."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_nodes.inference.cuda_graphs import CudaGraphs, Directly
from vla_nodes.inference.rehearsal import check_device
from vla_nodes.inference.value_inputs import arrange, check_probabilities, fit_all, tokenise
from vla_nodes.inference.value_runtime import fit_cameras
from vla_nodes.models.pi05_batch import Tokens
from vla_nodes.models.value_checkpoint import load_value_model, read_value_checkpoint

TEXTS = 64  # sets of texts whose tokens are kept


class TorchValue:
    """Meets ``value_runtime.ValueRuntime``; on a CUDA device calls are captured as graphs.

    Args:
        folder: Of the checkpoint.
        device: Where to compute.
        cameras: That there will be.
        half: Whether to compute in bfloat16.

    Raises:
        CheckpointError: The checkpoint is damaged, or for other cameras, or there is no such
            device.
        RuntimeError: Out of memory, for one.
    """

    def __init__(self, folder: Path, device: str, cameras: Sequence[str], *, half: bool) -> None:
        check_device(device)
        self.checkpoint = read_value_checkpoint(folder)
        assert self.checkpoint.interface  # check_folder has seen it
        self.cameras = fit_cameras(self.checkpoint.interface.cameras, cameras)
        dtype = torch.bfloat16 if half else torch.float32
        self._model = load_value_model(self.checkpoint, dtype, device)
        self._device, self._cuda = device, torch.device(device).type == "cuda"
        self._run = CudaGraphs(torch.device(device)) if self._cuda else Directly()
        self._tokens = lru_cache(TEXTS)(self._tokenise)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """Features of pictures, each (P, W)."""
        if not pictures:
            return []
        pixels = fit_all(pictures, self.checkpoint.config.image_size, self._device)
        (features,) = self._run(("encode", len(pixels)), self._encode, pixels)
        return list(features)

    @torch.inference_mode()
    def estimate(
        self, views: Mapping[str, Sequence[Tensor]], texts: Sequence[str]
    ) -> NDArray[np.float32]:
        """Probabilities (N, 201)."""
        arranged = arrange(views, self.cameras, self.checkpoint.config.history)
        absent = torch.zeros_like(next(one for one in arranged if one is not None))
        features = torch.stack([absent if one is None else one for one in arranged])
        mask = torch.tensor([one is not None for one in arranged], device=self._device)
        tokens = self._tokens(tuple(texts))
        key = ("estimate", tokens.ids.shape)
        (found,) = self._run(key, self._estimate, features, mask, tokens.ids, tokens.mask)
        return check_probabilities(found.cpu().numpy())

    def _encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self._model.encode(pixels),)

    def _estimate(
        self, features: Tensor, mask: Tensor, ids: Tensor, id_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """(V, P, W), (V,), and two (N, L), to (N, 201)."""
        count = len(ids)
        logits = self._model(
            features.expand(count, -1, -1, -1), mask.expand(count, -1), ids, id_mask
        )
        return (logits.float().softmax(-1),)

    def _tokenise(self, texts: tuple[str, ...]) -> Tokens:
        """(N, L); of one length on a CUDA device, where each length costs a capture."""
        tokens = tokenise(self.checkpoint, texts, len(self.cameras), fixed=self._cuda)
        return Tokens(tokens.ids.to(self._device), tokens.mask.to(self._device))
