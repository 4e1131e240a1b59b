# SPDX-License-Identifier: Apache-2.0
"""The policy node with a pi0.5 that now and then draws chunks that make no sense.

They take the place of good ones before the energy check judges them. What was drawn and what was
sent is written to a log, a line of JSON for each observation. The environment variable FAULTS
holds the fields of ``Faults`` as JSON.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from vla_nodes.contract import Contract, StateSource
from vla_nodes.inference import ActionPlan, PolicyOptions, Verdict
from vla_nodes.inference.backends import make_pi05
from vla_nodes.nodes.policy import main
from vla_nodes.nodes.policy_parameters import BACKENDS
from vla_nodes.observation.observation import Observation
from vla_nodes.sim.expert import ScriptedExpert
from vla_nodes.sim.expert_policy import SCENE_SOURCE

KINDS = ("noise", "motion")
"""Of faults. "noise": every action is anywhere where actions of the demonstrations were.
"motion": a straight way from where the arm is to any such place."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
        log: File that gets a line for each observation.
        rate: Share of the chunks that are drawn.
        seed: Of which, and of what they are.
        good: Whose the others are: the policy's own, or the scripted expert's, which sees the
            scene; the policy's hidden states are what they are judged by all the same.
        obeyed: Whether the energy check's verdict is sent; otherwise all is accepted.
    """

    log: str
    rate: float = 0.2
    seed: int = 0
    good: Literal["own", "expert"] = "own"
    obeyed: bool = True


class FaultyEngine:
    """An engine that changes what it has drawn and judges that.

    Args:
        engine: That draws.
        policy: That says what to make of it, and is told the energies.
    """

    def __init__(self, engine: Any, policy: "FaultyPolicy") -> None:
        self._engine, self._policy = engine, policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def act(self, *arguments: Any, **options: Any) -> Any:
        """As the engine's."""
        return self._changed(self._engine.act(*arguments, **options))

    def again(self, *arguments: Any, **options: Any) -> Any:
        """As the engine's."""
        return self._changed(self._engine.again(*arguments, **options))

    def _changed(self, drawn: Any) -> Any:
        actions = drawn.actions.new_tensor(self._policy.change(drawn.actions.cpu().numpy()))
        energies = None
        if drawn.prefix is not None:
            energies = self._engine.energies(drawn.prefix, actions)
            self._policy.judged(energies.tolist())
        return replace(drawn, actions=actions, energies=energies)


class FaultyPolicy:
    """Meets ``vla_nodes.inference.Policy``; a ``Pi05Policy`` with a ``FaultyEngine``.

    Args:
        contract: Of the simulated arm.
        checkpoint: Of the pi0.5.
        device: Where to compute.
        options: How.
    """

    extra_states: Sequence[StateSource]

    def __init__(
        self, contract: Contract, checkpoint: str, device: str, options: PolicyOptions
    ) -> None:
        self._policy = cast(Any, make_pi05(contract, checkpoint, device, options))
        self._policy._engine = FaultyEngine(self._policy._engine, self)
        self._contract, self._faults = contract, Faults(**json.loads(os.environ["FAULTS"]))
        self._scaling = self._policy._normalization.action
        self._expert = ScriptedExpert() if self._faults.good == "expert" else None
        self.extra_states = [SCENE_SOURCE] if self._expert else []
        self._random = np.random.default_rng(self._faults.seed)

    def reset(self) -> None:
        """As the policy's."""
        self._policy.reset()

    def plan_subtask(self, observation: Observation, task: str) -> str:
        """The expert's, where it is to act."""
        subtask: str = self._policy.plan_subtask(observation, task)
        return self._expert_plan(observation, task, 1)[1] if self._expert else subtask

    def act(self, observation: Observation, subtask: str) -> ActionPlan:
        """The chunk that the policy makes of what was drawn."""
        self._seen, self._subtask = observation, subtask
        self._drawn: list[dict[str, Any]] = []
        self._chunks: list[Floats] = []
        plan: ActionPlan = self._policy.act(observation, subtask)
        if not self._faults.obeyed:
            plan = replace(plan, verdict=Verdict.ACCEPTED)
        sent = [np.array_equal(plan.actions, chunk) for chunk in self._chunks].index(True)
        line = {
            "stamp": observation.stamp,
            "drawn": self._drawn,
            "sent": sent,
            "energy": plan.energy,
            "threshold": plan.threshold,
            "verdict": int(plan.verdict),
            "good": self._good.tolist(),
        }
        with Path(self._faults.log).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return plan

    def change(self, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        """Chunks (K, T, A), normalised and padded, some of which make sense."""
        count, joints = drawn.shape[1], len(self._contract.action_names)
        if self._expert:
            targets, _ = self._expert_plan(self._seen, self._subtask, count)
            drawn = drawn.copy()
            drawn[:, :, :joints] = self._scaling.normalise(targets)
        self._good = self._scaling.restore(drawn[0, :, :joints])
        changed = drawn.copy()
        for chunk in changed:
            fault = ""
            if self._random.random() < self._faults.rate:
                fault = str(self._random.choice(KINDS))
                chunk[:, :joints] = self._nonsense(fault, count)
            self._drawn.append({"fault": fault, "energy": None})
            self._chunks.append(self._scaling.restore(chunk[:, :joints]))
        return changed

    def judged(self, energies: Sequence[float]) -> None:
        """Takes the energies of the chunks that ``change`` returned last."""
        for drawn, energy in zip(self._drawn[-len(energies) :], energies, strict=True):
            drawn["energy"] = energy

    def _nonsense(self, fault: str, count: int) -> Floats:
        """(T, joints), normalised."""
        joints = len(self._contract.action_names)
        if fault == "noise":
            return self._random.uniform(-1.0, 1.0, (count, joints))
        start, end = self._scaling.normalise(self._seen.state), self._random.uniform(-1, 1, joints)
        return start + (end - start) * np.linspace(1 / count, 1.0, count)[:, None]

    def _expert_plan(self, observation: Observation, text: str, steps: int) -> tuple[Floats, str]:
        assert self._expert
        scene = observation.extras[SCENE_SOURCE.name]
        return self._expert.plan(observation.state, scene, text, steps, self._contract.dt)


if __name__ == "__main__":
    BACKENDS["pi05"] = "faulty_policy:FaultyPolicy"
    main()
