# SPDX-License-Identifier: Apache-2.0
"""The policy node's parameters, and the policy that they name."""

import importlib
from dataclasses import dataclass, fields

from vla_nodes.contract import Contract
from vla_nodes.inference import Policy, PolicyError, PolicyOptions
from vla_nodes.nodes.parameters import ParameterError, parameter

# Backends by name, imported only when chosen: a factory
# (contract, checkpoint, device, options) -> Policy.
BACKENDS = {
    "expert": "vla_nodes.sim.expert_policy:ExpertPolicy",
    "pi05": "vla_nodes.inference.backends:make_pi05",
    "lerobot": "vla_nodes.inference.backends:make_lerobot",
}


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of the policy node."""

    contract: str = parameter("", "Path of the robot's contract, YAML")
    backend: str = parameter("expert", "What computes the actions", choices=tuple(BACKENDS))
    checkpoint: str = parameter("", "Folder of the weights; empty for backends without")
    device: str = parameter("cpu", "Where to compute: cpu, cuda, cuda:N")
    rate: float = parameter(
        10.0,
        "Greatest number of chunks per second, Hz; lower saves power, but below about one per "
        "half chunk the commander runs out of actions",
        minimum=0.1,
        maximum=200.0,
    )
    planner_period: float = parameter(
        1.0, "Seconds between looks of the planner at the subtask", minimum=0.0
    )
    planner: str = parameter(
        "known",
        "Whether the planner chooses among known subtasks or writes freely; free text may name "
        "what the actor never learned",
        choices=("known", "free"),
    )
    candidates: int = parameter(
        1,
        "Chunks drawn for one observation; the energy check takes the best of them, and without "
        "it more than one is wasted",
        minimum=1,
        maximum=64,
    )
    steps: int = parameter(
        0,
        "Euler steps from noise to actions; 0: the checkpoint's own. Fewer are faster and less "
        "exact",
        minimum=0,
        maximum=100,
    )
    guidance: float = parameter(
        1.0,
        "Weight of guidance towards good actions; 1: they are only asked for. Higher doubles the "
        "expert's work, and far above 2 exaggerates motions. Only for checkpoints that were "
        "trained with advantages",
        minimum=1.0,
        maximum=10.0,
    )
    dtype: str = parameter(
        "float32",
        "Of weights and activations. bfloat16 halves memory and is faster on a GPU, but slower on "
        "a CPU without it",
        choices=("float32", "bfloat16"),
    )
    compile: bool = parameter(
        False, "Compile the model while configuring, which takes minutes; chunks are faster after"
    )
    real_time: str = parameter(
        "off",
        "How a chunk continues the one under way: off, trained (for checkpoints trained so) or "
        "guided (for any, slower). With off a slow policy jumps from one plan to another",
        choices=("off", "trained", "guided"),
    )
    energy: str = parameter(
        "",
        "Folder of the energy model that judges the chunks, trained for this checkpoint and "
        "calibrated; empty: no check",
    )
    resamples: int = parameter(
        2,
        "How often chunks are drawn again while the energy check accepts none. Each costs what "
        "the expert costs; without any a single unlucky draw is a rejection",
        minimum=0,
        maximum=16,
    )
    correction_steps: int = parameter(
        0,
        "Gradient steps that lower the energy of an accepted chunk, grippers left out; 0: chunks "
        "are sent as drawn",
        minimum=0,
        maximum=100,
    )
    correction_rate: float = parameter(
        0.1,
        "Of such a step, in normalised units for a slope of one energy a unit; no step is longer "
        "than a fifth of the chunk's norm",
        minimum=0.0,
        maximum=100.0,
    )


def load_policy(parameters: PolicyParameters, contract: Contract) -> Policy:
    """Make the policy that the parameters name.

    Raises:
        ParameterError: The backend lacks a library, or cannot work with this robot.
    """
    module, _, factory = BACKENDS[parameters.backend].partition(":")
    try:
        make = getattr(importlib.import_module(module), factory)
        return make(contract, parameters.checkpoint, parameters.device, policy_options(parameters))
    except (ImportError, PolicyError) as error:
        raise ParameterError(f"backend '{parameters.backend}': {error}") from error


def policy_options(parameters: PolicyParameters) -> PolicyOptions:
    """The parameters that are the policy's own."""
    return PolicyOptions(**{f.name: getattr(parameters, f.name) for f in fields(PolicyOptions)})
