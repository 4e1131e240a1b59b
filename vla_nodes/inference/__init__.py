# SPDX-License-Identifier: Apache-2.0
"""Running policies: the Protocol that every backend meets, and the backends with weights."""

from vla_nodes.inference.options import PolicyOptions
from vla_nodes.inference.policy import ActionPlan, Policy, PolicyError, Verdict

__all__ = ["ActionPlan", "Policy", "PolicyError", "PolicyOptions", "Verdict"]
