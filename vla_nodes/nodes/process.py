# SPDX-License-Identifier: Apache-2.0
"""The main loop of every node's process."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from vla_nodes.bringup.graph import PARENT_DEATH_SIGNAL
from vla_nodes.nodes.lifecycle import ManagedNode

LAST_WORDS = 10  # callbacks that still run after the work has stopped


def run_node(make_node: Callable[[], ManagedNode]) -> None:
    """Main loop of a process with one node; returns after SIGINT or SIGTERM.

    A failure in a callback becomes the node's failure, never the end of the process. On a
    signal the node is shut down in order: active work stops first.

    Args:
        make_node: Makes the node, after ``rclpy.init``.
    """
    _follow_parent()
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stop.append(received))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = make_node()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()
    try:
        was_active = False
        while not stop and not node.is_finalized:
            _spin_once(node, executor)
            was_active = was_active or node.is_active
            if node.autostart and was_active and node.is_unconfigured and node.fault:
                # Nobody else brings such a node back but its launcher.
                sys.exit(1)
        _shut_down(node, executor)
    finally:
        # A second Ctrl-C must not interrupt the interpreter on its way out.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        node.destroy_node()
        rclpy.try_shutdown()


def _shut_down(node: ManagedNode, executor: SingleThreadedExecutor) -> None:
    """Stop work, let what ended with it be told, and release everything."""
    if node.is_active:
        node.trigger_deactivate()
        for _ in range(LAST_WORDS):
            _spin_once(node, executor)
    if not node.is_finalized:
        node.trigger_shutdown()


def _spin_once(node: ManagedNode, executor: SingleThreadedExecutor) -> None:
    try:
        # Python runs signal handlers between bytecodes only: the wait has to end by itself.
        executor.spin_once(timeout_sec=0.05)
    except ExternalShutdownException:
        raise
    except Exception:
        node.fail(traceback.format_exc())
        node.handle_failure()


def _follow_parent() -> None:
    """Get a signal when the launching process dies, so that no node outlives it (Linux)."""
    number = os.environ.pop(PARENT_DEATH_SIGNAL, "")
    if number:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(number))
