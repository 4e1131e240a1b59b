# SPDX-License-Identifier: Apache-2.0
"""The scripted expert as a policy: the demonstrator for the simulated arm.

It sees where the cubes are, which a learned policy does not: the simulation publishes the scene
as one more state source.
"""

import numpy as np

from vla_nodes.contract import Contract, Qos, StateSource
from vla_nodes.inference import ActionPlan, PolicyError, PolicyOptions
from vla_nodes.observation.assembler import Observation
from vla_nodes.sim.expert import ScriptedExpert
from vla_nodes.sim.scene import JOINTS, scene_names

SCENE_SOURCE = StateSource(
    name="scene",
    topic="/sim/scene",
    joints=scene_names(),
    max_age=0.2,
    units="m",
    qos=Qos(reliability="reliable", depth=20),
)
HORIZON = 0.8  # s that a chunk covers


class ExpertPolicy:
    """Meets ``vla_nodes.inference.Policy``.

    Args:
        contract: The simulated arm's.
        checkpoint: Must be empty; the expert has no weights.
        device: Unused; the expert computes on the CPU.
        options: The default ones; the expert has no model that they would be about.

    Raises:
        PolicyError: The contract is not the simulated arm's, or something was chosen that the
            expert does not have.
    """

    extra_states = (SCENE_SOURCE,)

    def __init__(
        self, contract: Contract, checkpoint: str, device: str, options: PolicyOptions
    ) -> None:
        del device
        options.refuse_for("the scripted expert")
        wanted = [f"{joint}.position" for joint in JOINTS]
        if list(contract.state_names) != wanted or list(contract.action_names) != list(JOINTS):
            raise PolicyError(
                f"the scripted expert needs states {', '.join(wanted)} and actions "
                f"{', '.join(JOINTS)}; '{contract.robot}' has others: use a learned policy"
            )
        if checkpoint:
            raise PolicyError(f"the scripted expert takes no checkpoint; found '{checkpoint}'")
        self._expert = ScriptedExpert()
        self._dt = contract.dt
        self._steps = round(HORIZON / contract.dt)

    def reset(self) -> None:
        """Nothing to forget: the expert decides from what it sees."""

    def plan_subtask(self, observation: Observation, task: str) -> str:
        """The subtask for the cube that comes next."""
        return self._plan(observation, task, steps=1)[1]

    def act(self, observation: Observation, subtask: str) -> ActionPlan:
        """A chunk that brings the subtask's cube on its way."""
        return ActionPlan(self._plan(observation, subtask, self._steps)[0])

    def _plan(self, observation: Observation, text: str, steps: int) -> tuple[np.ndarray, str]:
        scene = observation.extras[SCENE_SOURCE.name]
        try:
            return self._expert.plan(observation.state, scene, text, steps, self._dt)
        except ValueError as error:
            raise PolicyError(str(error)) from error
