# SPDX-License-Identifier: Apache-2.0
"""The base class of every node.

``configure`` loads, ``activate`` works, ``deactivate`` stops work, ``cleanup`` releases. A
subclass fills in these four; whatever they raise is logged with its traceback, becomes the
node's fault (heartbeat, diagnostics) and leaves it in a state from which it can be configured
again. Nothing here decides what is safe: that is for the commander.
"""

import time
import traceback
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from vla_interfaces.msg import Heartbeat

from vla_nodes.contract import ContractError
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.diagnostics import ERROR, OK, WARN, Health
from vla_nodes.nodes.parameters import ParameterError, ParameterSet

HEARTBEAT_PERIOD = 0.05  # s
DIAGNOSTICS_PERIOD = 0.5  # s

_SUCCESS = TransitionCallbackReturn.SUCCESS
_FAILURE = TransitionCallbackReturn.FAILURE
_ERROR = TransitionCallbackReturn.ERROR


class NotReadyError(RuntimeError):
    """A node that cannot be activated now, for a reason outside itself."""


# What the user or the rest of the graph must mend: one clear line helps more than a traceback.
_PLAIN_ERRORS = (ParameterError, ContractError, NotReadyError)


class ManagedNode[P](LifecycleNode):
    """A lifecycle node with parameters, heartbeat, diagnostics and bounded failure.

    Args:
        name: Node name.
        parameters: Frozen dataclass of the node's parameters.
    """

    def __init__(self, name: str, parameters: type[P]) -> None:
        super().__init__(name)
        self._parameter_set = ParameterSet(
            self, parameters, changeable=lambda: self.is_unconfigured
        )
        self.parameters: P
        self.goal = 0
        self.progress = 0
        self.fault = ""
        self._failure = ""
        self._qos_problems: dict[str, str] = {}
        self._instance = time.time_ns()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._heartbeat = self.create_publisher(Heartbeat, topics.HEARTBEAT, qos.SHARED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.steady_timer(HEARTBEAT_PERIOD, self._beat)
        self.steady_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics)
        self._permanent = self._entities()
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._answer_change_state

    # Whether the process configures and activates the node at once instead of waiting to be told.
    autostart = False

    # --- what a subclass fills in --------------------------------------------------------

    def configure(self, parameters: P) -> None:
        """Load files and create publishers, subscriptions and the like."""

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Stop working; waits, with a bound, until it has stopped."""

    def cleanup(self) -> None:
        """Release what ``configure`` loaded; ROS entities are destroyed for it."""

    def health(self) -> Health:
        """The node's figures and warnings while it is inactive or active."""
        return Health()

    def waiting_for(self) -> str:
        """What a configured node lacks before it can be activated; empty when nothing."""
        return ""

    def working_fault(self) -> str:
        """A fault that lasts while the node goes on working, such as a latched stop."""
        return ""

    # --- helpers ------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether the node is in its active state."""
        return self._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE

    @property
    def is_unconfigured(self) -> bool:
        """Whether the node is in its unconfigured state."""
        return self._state_machine.current_state[0] == State.PRIMARY_STATE_UNCONFIGURED

    @property
    def is_finalized(self) -> bool:
        """Whether the node has been shut down."""
        return self._state_machine.current_state[0] == State.PRIMARY_STATE_FINALIZED

    def ros_now(self) -> int:
        """ROS time in nanoseconds."""
        return self.get_clock().now().nanoseconds

    def steady_timer(self, period: float, callback: Callable[[], None]) -> Any:
        """A timer on the steady clock, which neither pauses nor steps; ``period`` in seconds."""
        return self.create_timer(period, callback, clock=self._steady)

    def subscribe(
        self,
        kind: type,
        topic: str,
        callback: Callable,
        profile: QoSProfile,
        raw: bool = False,
    ) -> Any:
        """Subscribe, and name a publisher whose quality of service does not fit.

        With ``raw`` the callback gets the serialized bytes.
        """
        events = SubscriptionEventCallbacks(
            incompatible_qos=lambda event: self._qos_mismatch(topic, "publisher", event)
        )
        return self.create_subscription(
            kind, topic, callback, profile, event_callbacks=events, raw=raw
        )

    def publish_on(self, kind: type, topic: str, profile: QoSProfile) -> Any:
        """A publisher that names a subscriber whose quality of service does not fit."""
        events = PublisherEventCallbacks(
            incompatible_qos=lambda event: self._qos_mismatch(topic, "subscriber", event)
        )
        return self.create_publisher(kind, topic, profile, event_callbacks=events)

    def fail(self, reason: str) -> None:
        """Report a failure, from any thread; the node soon leaves its active state."""
        self._failure = self._failure or reason

    # --- transitions -----------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and configure; a failure leaves the node unconfigured."""
        del state
        self.fault = self._failure = ""

        def step() -> None:
            self.parameters = self._parameter_set.read()
            self.configure(self.parameters)

        if self._attempt("configure", step):
            return _SUCCESS
        self._attempt("cleanup", self._release)
        return _FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activate; a failure leaves the node inactive."""
        del state
        self.fault = ""
        return _SUCCESS if self._attempt("activate", self._activate_if_ready) else _FAILURE

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate; after a failure the node goes through ``on_error``."""
        del state
        ended = self._attempt("deactivate", self.deactivate)
        return _SUCCESS if ended and not self._failure else _ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything that ``configure`` made."""
        del state
        return _SUCCESS if self._attempt("cleanup", self._release) else _ERROR

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop work from any state and release everything."""
        if state.state_id == State.PRIMARY_STATE_ACTIVE:
            self._attempt("deactivate", self.deactivate)
        self._attempt("cleanup", self._release)
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything; the node is then unconfigured and can be configured again."""
        del state
        self._attempt("cleanup", self._release)
        return _SUCCESS

    def _answer_change_state(self, request: Any, response: Any) -> Any:
        """Say no to a transition that is not possible now; rclpy raises and never answers."""
        try:
            return self._change_state(request, response)
        except rclpy_implementation.RCLError as error:
            self.get_logger().info(str(error))
            response.success = False
            return response

    def _activate_if_ready(self) -> None:
        if lacking := self.waiting_for():
            raise NotReadyError(f"still waiting for {lacking}")
        self.activate()

    def _attempt(self, what: str, step: Callable[[], None]) -> bool:
        try:
            step()
        except _PLAIN_ERRORS as error:
            self.fault = f"{what}: {error}"
            self.get_logger().error(self.fault)
            return False
        except Exception as error:
            self.fault = f"{what}: {type(error).__name__}: {error}"
            self.get_logger().error(f"{what} failed\n{traceback.format_exc()}")
            return False
        return True

    def _release(self) -> None:
        try:
            self.cleanup()
        finally:
            self.goal = 0
            self._qos_problems.clear()
            destroyers = (
                self.destroy_publisher,
                self.destroy_subscription,
                self.destroy_timer,
                self.destroy_service,
                self.destroy_client,
            )
            for now, kept, destroy in zip(
                self._entities(), self._permanent, destroyers, strict=True
            ):
                for entity in now:
                    if entity not in kept:
                        destroy(entity)

    def _entities(self) -> tuple[list, ...]:
        groups = (self.publishers, self.subscriptions, self.timers, self.services, self.clients)
        return tuple(list(group) for group in groups)

    def handle_failure(self) -> None:
        """Leave the active state after :meth:`fail`; called from the executor's thread."""
        if not self._failure:
            return
        reason, state = self._failure, self._state_machine.current_state[0]
        self.get_logger().error(reason)
        if state == State.PRIMARY_STATE_ACTIVE:
            self.trigger_deactivate()
        elif state == State.PRIMARY_STATE_INACTIVE:
            self.trigger_cleanup()
        self._failure = ""
        self.fault = reason[-512:].strip().splitlines()[-1]

    # --- heartbeat and diagnostics ----------------------------------------------------------

    def _beat(self) -> None:
        self.handle_failure()
        message = Heartbeat(
            node=self.get_fully_qualified_name(),
            instance=self._instance,
            state=self._state_machine.current_state[0],
            goal=self.goal,
            progress=self.progress,
            fault=(self.fault or self._working_fault())[:512],
            waiting_for=self._lacking()[:512],
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._heartbeat.publish(message)

    def _publish_diagnostics(self) -> None:
        state = self._state_machine.current_state
        health = Health(level=OK, message=state[1])
        if state[0] in (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE):
            health = self.health()
        if self._qos_problems:
            health = Health(
                max(health.level, WARN), "; ".join(self._qos_problems.values()), health.values
            )
        if lacking := self._lacking():
            health = Health(WARN, f"waiting for {lacking}", health.values)
        if fault := self.fault or self._working_fault():
            health = Health(ERROR, fault, health.values)
        values = {"state": state[1], **health.values}
        array = DiagnosticArray(
            status=[
                Health(health.level, health.message, values).status(self.get_fully_qualified_name())
            ]
        )
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _lacking(self) -> str:
        inactive = self._state_machine.current_state[0] == State.PRIMARY_STATE_INACTIVE
        return self.waiting_for() if inactive else ""

    def _working_fault(self) -> str:
        return self.working_fault() if self.is_active else ""

    def _qos_mismatch(self, topic: str, other: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        text = f"{topic}: a {other} is incompatible in {policy}; nothing is received from it"
        if topic not in self._qos_problems:
            self.get_logger().warning(text)
        self._qos_problems[topic] = text
