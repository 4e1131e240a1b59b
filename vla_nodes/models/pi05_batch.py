# SPDX-License-Identifier: Apache-2.0
"""What a pi0.5 is given and what it returns in training."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Texts of a batch, padded on either side.

    Attributes:
        ids: (B, L) int64.
        mask: (B, L) bool, False where padded.
    """

    ids: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of a batch.

    Attributes:
        pixels: (B, V, 3, H, W) float32 in [-1, 1].
        mask: (B, V) bool, False for a camera that is absent.
    """

    pixels: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class ActionTarget:
    """Chunks to learn.

    Attributes:
        actions: (B, T, A) float32, normalised and padded.
        is_pad: (B, T) bool, True where the chunk runs past its episode.
        dims: Elements of an action that are not padding.
        delay: (B,) int64, actions at the start that are given, as real-time chunking does it
            (https://arxiv.org/abs/2512.05964); None for none.
    """

    actions: Tensor
    is_pad: Tensor
    dims: int
    delay: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Pi05Batch:
    """What a step of training needs; a branch whose part is None is not run.

    Attributes:
        views: Shared by both branches.
        planner: Prompts of the planner.
        target: What the planner is to write, end token included.
        actor: Prompts of the actor.
        action: What the expert is to learn.
    """

    views: Views
    planner: Tokens | None = None
    target: Tokens | None = None
    actor: Tokens | None = None
    action: ActionTarget | None = None


@dataclass(frozen=True, eq=False)
class Pi05Output:
    """Losses and what they were computed from; None for a branch that was not run.

    Attributes:
        total_loss: Scalar: text loss per token + alpha · action loss per element.
        text_loss: (B, S) cross entropy; 0 where padded.
        action_loss: (B, T, A) squared error of the velocity; 0 where padded or given.
        prefix_embeds: (B, N, W) last hidden states of the planner's prefix, pictures and prompt.
        suffix_embeds: (B, T, E) last hidden states of the expert.
        context: (B, N, W) last hidden states of the actor's prefix, pictures and prompt.
        context_there: (B, N) bool, which of them are there.
    """

    total_loss: Tensor
    text_loss: Tensor | None = None
    action_loss: Tensor | None = None
    prefix_embeds: Tensor | None = None
    suffix_embeds: Tensor | None = None
    context: Tensor | None = None
    context_there: Tensor | None = None
