# SPDX-License-Identifier: Apache-2.0
"""An energy model that is trained along with a policy, on what the policy sees at that moment.

It reads the hidden states that the policy's own losses come from, and its loss does not reach
them: the policy becomes what it would become without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_checkpoint import (
    EnergyInterface,
    policy_digest,
    write_energy_checkpoint,
)
from vla_nodes.models.energy_config import EnergyConfig
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import Pi05Batch, Pi05Output
from vla_nodes.models.robot_interface import RobotInterface
from vla_training.data.loading.collation import Batch
from vla_training.data.loading.frame_table import FrameTable
from vla_training.data.schema import Outcome
from vla_training.energy.known_episodes import known_episodes
from vla_training.recipes.energy_objective import (
    LOSS,
    EnergyInputs,
    EnergyLearner,
    energy_counts,
    energy_losses,
)
from vla_training.recipes.energy_settings import EnergyLossSettings
from vla_training.recipes.job import Job, Prepared
from vla_training.recipes.optimizer import Apart
from vla_training.recipes.policy_objective import PolicyObjective
from vla_training.recipes.policy_settings import PolicySettings

ENERGY = "energy"
"""Folder of the energy model beside the policy's, and the parameters of ``JointLearner``."""
_SWAP = EnergyLossSettings(loss="swap", negatives=())


class JointLearner(nn.Module):
    """A policy and its energy model as training runs them, within one call.

    Args:
        policy: The policy.
        energy: Of its hidden states.
    """

    def __init__(self, policy: Pi05, energy: EnergyModel) -> None:
        super().__init__()
        self.policy, self.energy = policy, EnergyLearner(energy, swaps=True)

    def forward(
        self, batch: Pi05Batch, rows: Tensor, **options: Any
    ) -> tuple[Pi05Output, dict[str, Tensor]]:
        """Losses of the policy, and sums of those of the energy model.

        Args:
            batch: B items, with actions.
            rows: Those whose chunks are the expert's, from beginning to end.
            options: Of the policy.
        """
        output = self.policy(batch, **options)
        assert output.context is not None  # its expert is trained
        assert output.context_there is not None
        assert batch.action is not None
        inputs = EnergyInputs(
            hidden=output.context.detach()[rows],
            ignore=~output.context_there[rows],
            actions=batch.action.actions[rows, :, : batch.action.dims],
            negatives={},
        )
        expert, others = self.energy(inputs)
        return output, energy_losses(expert, others, _SWAP)


class JointObjective:
    """What a policy is trained for, and its energy model beside it; see ``job.Objective``.

    Args:
        policy: What the policy is trained for.
        weight: Of the energy model's loss; 0 where it is looked at alone.
    """

    def __init__(self, policy: PolicyObjective, weight: float = 1.0) -> None:
        self._policy = policy
        self.weights: Mapping[str, float] = {**policy.weights, LOSS: weight}

    def prepare(
        self, batch: Batch, rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        """The policy's inputs, and which chunks are the expert's from beginning to end."""
        made = self._policy.prepare(batch, rngs, device)
        whole = ~batch.action_is_pad.any(dim=1) & (batch.outcome != Outcome.FAILURE)
        rows = whole.nonzero()[:, 0]
        counts = energy_counts(len(rows), {}, _SWAP)
        return Prepared((made.inputs, rows.to(device)), {**made.counts, **counts})

    def losses(self, model: nn.Module, inputs: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Runs both models."""
        (batch, draws, weight), rows = inputs
        output, energy = model(batch, rows, **self._policy.options(draws))
        return {**self._policy.sums(output, weight), **energy}


def with_energy(
    job: Job, settings: PolicySettings, robot: RobotInterface, tables: Sequence[FrameTable]
) -> Job:
    """The training of a policy, with that of a new energy model beside it.

    Args:
        job: Of the policy.
        settings: Its own.
        robot: That it is trained for.
        tables: Of each dataset, all frames of its training episodes.

    Returns:
        A training whose export writes the folder ``energy``, too.
    """
    policy, objective = job.model, job.objective
    assert isinstance(policy, Pi05)
    assert isinstance(objective, PolicyObjective)
    assert robot.action_names is not None  # a dataset says them, and its rate
    assert robot.fps is not None
    torch.manual_seed(settings.loop.seed)
    width, names, fps = policy.config.language.width, robot.action_names, robot.fps
    energy = EnergyModel(EnergyConfig(width, len(names)))
    episodes = known_episodes((table, np.unique(table.episode)) for table in tables)

    def export() -> None:
        job.export()
        interface = EnergyInterface(
            policy=policy_digest(settings.out / "checkpoint"),
            action_names=names,
            fps=fps,
            chunk=policy.config.chunk,
            split_seed=settings.data.split_seed,
            shares=settings.data.shares,
            episodes=episodes,
        )
        write_energy_checkpoint(settings.out / ENERGY, energy, energy.config, interface)

    told = settings.energy
    return replace(
        job,
        model=JointLearner(policy, energy),
        objective=JointObjective(objective),
        # When training is to end is for the policy's loss to say, as it is without.
        validation_objective=JointObjective(objective, weight=0.0),
        export=export,
        apart=Apart(ENERGY, told.energy_learning_rate, told.energy_clip),
    )
