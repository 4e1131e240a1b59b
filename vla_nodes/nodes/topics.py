# SPDX-License-Identifier: Apache-2.0
"""Names of the graph's own topics and services, relative to its namespace.

Cameras, joint states and commands keep the absolute names that the contract gives them.
"""

TASK = "task"
TASK_RESULT = "task_result"
SUBTASK = "subtask"
CHUNK = "chunk"
VALUE = "value"
VALUE_EXPECTATION = "value/expectation"
VALUE_MARKERS = "value/markers"
VALUE_OVERLAY = "value/overlay"
ESTOP = "estop"
HEARTBEAT = "heartbeat"
EXECUTE_TASK = "execute_task"
RESET_SIMULATION = "reset_simulation"
