# SPDX-License-Identifier: Apache-2.0
"""What a policy is trained for: to write subtasks, and to denoise actions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_nodes.models.pi05_batch import ActionTarget, Pi05Batch, Pi05Output
from vla_training.data.loading.collation import Batch
from vla_training.policy_inputs.policy_batches import FlowDraws, PolicyBatches
from vla_training.recipes.job import Prepared
from vla_training.recipes.policy_settings import PolicySettings


class PolicyObjective:
    """Text loss and action loss of a pi0.5; see ``job.Objective``."""

    def __init__(self, settings: PolicySettings, batches: PolicyBatches) -> None:
        self._batches = batches
        self._insulate = settings.insulate or not settings.plans
        self._flow_samples = settings.flow_samples
        self._weigh = settings.data.weigh
        alpha = {"joint": settings.alpha, "expert": 1.0}.get(settings.mode)
        text = {"text": 1.0} if settings.plans else {}
        self.weights: Mapping[str, float] = {**text, **({"action": alpha} if alpha else {})}

    def prepare(
        self, batch: Batch, rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        """The model's batch with noise and times, and how many tokens and elements it has."""
        made, draws = self._batches.make(batch, rngs, device)
        counts: dict[str, Tensor] = {}
        if made.target:
            counts["text"] = made.target.mask.sum()
        if made.action:
            counts["action"] = learnt(made.action).sum() * made.action.dims * self._flow_samples
        weight = None
        if self._weigh:
            # Their mean over the data is 1: what has none counts so, and counts stay as they are.
            weight = batch.weight.nan_to_num(1.0).repeat(self._flow_samples).to(device)
        return Prepared((made, draws, weight), counts)

    def losses(
        self, model: nn.Module, inputs: tuple[Pi05Batch, FlowDraws | None, Tensor | None]
    ) -> dict[str, Tensor]:
        """Runs the model."""
        batch, draws, weight = inputs
        return self.sums(model(batch, **self.options(draws)), weight)

    def options(self, draws: FlowDraws | None) -> dict[str, Any]:
        """What a pi0.5 is told beside its batch."""
        flow = vars(draws) if draws else {}
        return {"insulate": self._insulate, "flow_samples": self._flow_samples, **flow}

    @staticmethod
    def sums(output: Pi05Output, weight: Tensor | None) -> dict[str, Tensor]:
        """Sums of losses.

        Args:
            output: Of the model.
            weight: (F·B,) of the actions' losses; None where all count alike.
        """
        action = output.action_loss
        if action is not None and weight is not None:
            action = action * weight[:, None, None]
        losses = {"text": output.text_loss, "action": action}
        return {name: loss.sum() for name, loss in losses.items() if loss is not None}


def learnt(target: ActionTarget) -> Tensor:
    """(B, T) bool: actions that are learnt, being neither padding nor given."""
    places = torch.arange(target.is_pad.shape[1], device=target.is_pad.device)
    given = 0 if target.delay is None else target.delay[:, None]
    return ~target.is_pad & (places >= given)
