# SPDX-License-Identifier: Apache-2.0
"""Checks what an engine is given, and lays it out as tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vla_nodes.inference.guidance import agreement_weights
from vla_nodes.models.pi05_config import Pi05Config


class Inputs:
    """Lays out what calls of an engine have in common: features, prompts and noise.

    Args:
        config: Of the model.
        device: Of the engine.
        multiple: Prompts are padded to a multiple of this many tokens.
        seed: Of the noise.

    Attributes:
        generator: Of the noise.
    """

    def __init__(self, config: Pi05Config, device: torch.device, multiple: int, seed: int) -> None:
        self._config, self._device, self._multiple = config, device, multiple
        self.generator = torch.Generator(device).manual_seed(seed)

    def there(self, x: Tensor) -> Tensor:
        """On the engine's device."""
        return x.to(self._device, non_blocking=True)

    def prompts(
        self, features: Tensor, prompts: Sequence[Sequence[int]]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], bool]:
        """Lays out prompts over the same pictures.

        Args:
            features: (V · P, W) of the pictures.
            prompts: B prompts' tokens.

        Returns:
            Features, tokens (B, L) and their numbers (B,); and whether a mask must tell padding.

        Raises:
            ValueError: A shape or token does not fit the model.
        """
        check_features(features, self._config)
        most = self._config.max_prompt_tokens
        ids, lengths = pad_tokens(prompts, "prompt", self._config, most, self._multiple)
        padded = self._multiple > 1 or len(set(map(len, prompts))) > 1
        return (self.there(features), self.there(ids), self.there(lengths)), padded

    def noise(self, noise: Tensor | None, count: int) -> Tensor:
        """(K, T, A): that which was given, else ``count`` new ones.

        Raises:
            ValueError: A shape does not fit the model.
        """
        shape = (self._config.chunk, self._config.max_action_dim)
        if noise is None:
            return torch.randn(count, *shape, generator=self.generator, device=self._device)
        if noise.ndim != 3 or not len(noise) or noise.shape[1:] != shape:
            raise ValueError(
                f"noise {tuple(noise.shape)}, expected (K, {shape[0]}, {shape[1]}), K at least 1"
            )
        return self.there(noise.float())

    def lengths(self, wanted: Sequence[int]) -> Sequence[int]:
        """Of these lengths of prompts, one of each that is laid out differently."""
        return list({round_up(length, self._multiple): length for length in wanted}.values())


def check_pictures(pictures: Tensor, config: Pi05Config) -> None:
    """Checks the pictures of cameras.

    Raises:
        ValueError: They are not (V, 3, S, S).
    """
    side = config.image_size
    if pictures.ndim != 4 or not len(pictures) or pictures.shape[1:] != (3, side, side):
        raise ValueError(
            f"pictures {tuple(pictures.shape)}, expected (V, 3, {side}, {side}), V at least 1"
        )


def check_chunks(actions: Tensor, least: int, config: Pi05Config) -> None:
    """Checks chunks that are to be judged.

    Args:
        actions: To be (K, T, A).
        least: Elements of an action that the energy model takes.
        config: Of the policy.

    Raises:
        ValueError: They are not.
    """
    most = config.max_action_dim
    if (
        actions.ndim != 3
        or not len(actions)
        or actions.shape[1] != config.chunk
        or not least <= actions.shape[2] <= most
    ):
        raise ValueError(
            f"actions {tuple(actions.shape)}, expected (K, {config.chunk}, {least} to {most}), "
            "K at least 1"
        )


def check_features(features: Tensor, config: Pi05Config) -> None:
    """Checks the tokens of pictures.

    Raises:
        ValueError: They are not (V · P, W).
    """
    width, picture = config.language.width, config.image_tokens
    if features.ndim != 2 or features.shape[1] != width or len(features) % picture:
        raise ValueError(f"features {tuple(features.shape)}, expected (V · {picture}, {width})")


def pad_tokens(
    rows: Sequence[Sequence[int]], name: str, config: Pi05Config, most: int, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """Pads texts behind their ends.

    Args:
        rows: Their tokens.
        name: What they are, for an error.
        config: Has the vocabulary.
        most: Tokens of a text.
        multiple: To which lengths are rounded up.

    Returns:
        (B, L) int64, and how many of each are not padding, (B,).

    Raises:
        ValueError: A text is empty or too long, or a token is not in the vocabulary.
    """
    for row in rows:
        if not 0 < len(row) <= most:
            raise ValueError(f"{name} of {len(row)} tokens, expected 1 to {most}")
        if not 0 <= min(row) <= max(row) < config.vocabulary:
            raise ValueError(
                f"{name} with tokens {min(row)} to {max(row)}, "
                f"expected 0 to {config.vocabulary - 1}"
            )
    longest = round_up(max(map(len, rows)), multiple)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([len(row) for row in rows])


def round_up(length: int, multiple: int) -> int:
    """To a multiple."""
    return -(-length // multiple) * multiple


def decided_actions(
    decided: Tensor, delay: int | None, config: Pi05Config, *, trained: bool
) -> tuple[Tensor, Tensor]:
    """Lays out the end of an old chunk in a new one.

    Args:
        decided: (m, A).
        delay: How many of these are past when the new chunk takes over; None for all.
        config: Of the model.
        trained: Whether it was trained to take them as given, and shall; otherwise it is guided.

    Returns:
        Actions (T, A) float32, and how far each is decided, (T,).

    Raises:
        ValueError: A shape does not fit, or the delay.
    """
    count, width, overlap = config.chunk, config.max_action_dim, len(decided)
    if decided.ndim != 2 or decided.shape[1] != width or not 0 < overlap <= count:
        raise ValueError(f"decided {tuple(decided.shape)}, expected (1 to {count}, {width})")
    delay = overlap if delay is None else delay
    if not 0 <= delay <= overlap:
        raise ValueError(f"delay {delay}, expected 0 to the {overlap} decided actions")
    if trained and delay > config.max_delay:
        raise ValueError(
            f"{delay} actions are decided, but the model was trained with "
            f"{config.max_delay} at most; use guided real-time chunking"
        )
    whole = torch.zeros(count, width, device=decided.device)
    whole[:overlap] = decided
    return whole, agreement_weights(delay, delay if trained else overlap, count)
