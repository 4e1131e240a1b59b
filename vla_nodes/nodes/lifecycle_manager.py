# SPDX-License-Identifier: Apache-2.0
"""Bringing other lifecycle nodes up, watching them, and bringing them back.

Starting a process again is the launcher's work; making the node in it active again is done
here, a bounded number of times with growing pauses.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.task import Future
from vla_interfaces.msg import Heartbeat

from vla_nodes.nodes.lifecycle import ManagedNode

_WORKING = (State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_INACTIVE)

SETTLING = 0.2  # s after a transition before the next one

_UP = {
    State.PRIMARY_STATE_UNCONFIGURED: (Transition.TRANSITION_CONFIGURE, "configure"),
    State.PRIMARY_STATE_INACTIVE: (Transition.TRANSITION_ACTIVATE, "activate"),
}


@dataclass(frozen=True)
class Patience:
    """How long and how often the manager tries; seconds.

    Attributes:
        heartbeat: Silence after which a node counts as dead.
        progress: Time an active node may beat without getting on with its work.
        transition: Time a node may take to configure or activate.
        window: Failures older than this are forgotten.
        restarts: Failures within the window after which a node is given up.
        pause: Wait before the first retry; doubles with every failure in the window.
    """

    heartbeat: float
    progress: float
    transition: float
    window: float
    restarts: int
    pause: float = 0.5


@dataclass
class _Peer:
    name: str
    client: Any
    state: int = State.PRIMARY_STATE_UNKNOWN
    instance: int = 0
    fault: str = ""
    waiting_for: str = ""
    last_beat: float = float("-inf")
    progress: int = -1
    last_progress: float = float("-inf")
    pending: Future | None = None
    pending_since: float = 0.0
    retry_at: float = 0.0
    failures: deque[float] = field(default_factory=deque)
    given_up: bool = False


class LifecycleManager:
    """Keeps a list of nodes active; later ones are brought up after earlier ones.

    Args:
        node: Carries the clients; its namespace is the nodes' namespace.
        names: Node names, in the order of bring-up.
        optional: Those of them that later ones do not wait for.
        patience: Bounds on waiting.
    """

    def __init__(
        self,
        node: ManagedNode,
        names: Sequence[str],
        optional: Collection[str],
        patience: Patience,
    ) -> None:
        self._node = node
        self._optional = optional
        self._patience = patience
        prefix = node.get_namespace().rstrip("/")
        self._peers = {
            f"{prefix}/{name}": _Peer(name, node.create_client(ChangeState, f"{name}/change_state"))
            for name in names
        }

    def heard(self, beat: Heartbeat, now: float) -> None:
        """Take a heartbeat; ``now`` in steady seconds."""
        peer = self._peers.get(beat.node)
        if peer is None:
            return
        if peer.instance and beat.instance != peer.instance:
            self._failed(peer, "its process was restarted", now)
            peer.pending = None
        elif peer.state == State.PRIMARY_STATE_ACTIVE and beat.state not in _WORKING:
            self._failed(peer, beat.fault or "it left its active state", now)
        elif peer.given_up and beat.state == State.PRIMARY_STATE_ACTIVE:
            # Somebody mended it by hand.
            peer.given_up = False
            peer.failures.clear()
        peer.instance = beat.instance
        peer.last_beat = now
        if beat.progress != peer.progress or beat.state != peer.state:
            peer.progress, peer.last_progress = beat.progress, now
        peer.state = beat.state
        peer.fault = beat.fault
        peer.waiting_for = beat.waiting_for

    def tick(self, now: float) -> None:
        """Take the next step of the first required node that is not active, and of the others."""
        for peer in self._peers.values():
            if not self._advance(peer, now) and peer.name not in self._optional:
                return

    def problem(self, name: str, now: float) -> str:
        """Why a node cannot be relied on now; empty when it can."""
        peer = next(peer for peer in self._peers.values() if peer.name == name)
        if peer.given_up:
            return f"{name} failed {len(peer.failures)} times and was given up: {peer.fault}"
        if peer.last_beat == float("-inf"):
            return f"{name} has not been heard of"
        if peer.pending is not None:
            return f"{name} is in transition"
        if now - peer.last_beat > self._patience.heartbeat:
            return f"{name} has been silent for {now - peer.last_beat:.1f} s"
        if peer.waiting_for:
            return f"{name} waits for {peer.waiting_for}"
        if peer.fault:
            return f"{name}: {peer.fault}"
        if peer.state != State.PRIMARY_STATE_ACTIVE:
            return f"{name} is not active"
        if now - peer.last_progress > self._patience.progress:
            return f"{name} has made no progress for {now - peer.last_progress:.1f} s"
        return ""

    def deactivate_all(self) -> None:
        """Ask all active nodes to stop working, last brought up first; does not wait."""
        for peer in reversed(self._peers.values()):
            if peer.state == State.PRIMARY_STATE_ACTIVE and peer.client.service_is_ready():
                request = ChangeState.Request()
                request.transition.id = Transition.TRANSITION_DEACTIVATE
                peer.client.call_async(request)

    def _advance(self, peer: _Peer, now: float) -> bool:
        """One step towards active; returns whether later nodes may go on."""
        if peer.pending is not None:
            self._check_pending(peer, now)
            return False
        silent = now - peer.last_beat > self._patience.heartbeat
        if silent or peer.state == State.PRIMARY_STATE_ACTIVE:
            return not silent
        step = _UP.get(peer.state)
        held_back = peer.given_up or peer.waiting_for or now < peer.retry_at
        if step and not held_back and peer.client.service_is_ready():
            request = ChangeState.Request()
            request.transition.id = step[0]
            peer.pending = peer.client.call_async(request)
            peer.state = State.PRIMARY_STATE_UNKNOWN
            peer.pending_since = now
            self._node.get_logger().info(f"{step[1]} {peer.name}")
        return False

    def _check_pending(self, peer: _Peer, now: float) -> None:
        assert peer.pending is not None
        if peer.pending.done():
            success = peer.pending.result().success
            peer.pending = None
            # The answer may overtake a heartbeat that was sent before it.
            peer.retry_at = now + SETTLING
            if not success:
                self._failed(peer, "a transition failed", now)
        elif now - peer.pending_since > self._patience.transition:
            peer.client.remove_pending_request(peer.pending)
            peer.pending = None
            self._failed(peer, f"no answer within {self._patience.transition:g} s", now)

    def _failed(self, peer: _Peer, reason: str, now: float) -> None:
        if peer.given_up:
            return
        peer.failures.append(now)
        while peer.failures and peer.failures[0] < now - self._patience.window:
            peer.failures.popleft()
        count = len(peer.failures)
        peer.given_up = count > self._patience.restarts
        pause = self._patience.pause * 2 ** (count - 1)
        peer.retry_at = now + pause
        outlook = "giving up" if peer.given_up else f"next try in {pause:g} s"
        self._node.get_logger().warning(f"{peer.name}: {reason} ({outlook})")
