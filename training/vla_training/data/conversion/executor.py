# SPDX-License-Identifier: Apache-2.0
"""Running episodes side by side: in processes of this machine, or as tasks of Ray."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

from vla_training.data.conversion.work import PRELOAD
from vla_training.data.errors import DataError

Kind = Literal["local", "ray"]
_PERIOD = 0.5  # s between looks at the progress


class Pool(NamedTuple):
    """What runs calls side by side.

    Attributes:
        submit: Takes a function of a module and its arguments.
        width: Calls that run at a time; no more may be submitted before one is done.
    """

    submit: Callable[..., "Future[Any]"]
    width: int


def executor(
    kind: Kind, workers: int | None, calls: int, log: Path
) -> AbstractContextManager[Pool]:
    """Opens a pool. Leaving the block ends what is still running.

    Args:
        kind: ``local`` for processes, ``ray`` for the cluster that RAY_ADDRESS names or, without
            that, for one on this machine.
        workers: Calls at a time; None for one per CPU.
        calls: That there will be.
        log: What processes of this machine write to stderr goes here.
    """
    if kind == "ray":
        return _ray_tasks(workers)
    return _processes(min(workers or len(os.sched_getaffinity(0)), calls), log)


def run_all[Job, Result](
    jobs: Sequence[Job],
    submit: Callable[[Job], "Future[Result]"],
    workers: int,
    doing: Callable[[Job], str],
    look: Callable[[Sequence[Job]], None],
) -> Iterator[tuple[Job, Result]]:
    """Runs jobs and yields each with its result as it ends.

    Args:
        jobs: In the order in which they begin.
        submit: Starts one.
        workers: How many run side by side.
        doing: What the process of a job did, in words.
        look: Is called now and then with those that run.

    Raises:
        DataError: The process that ran a job died.
    """
    waiting, running = deque(jobs), dict[Future[Result], Job]()
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.popleft()
            running[submit(job)] = job
        done, _ = wait(running, timeout=_PERIOD, return_when=FIRST_COMPLETED)
        look([*running.values()])
        for future in done:
            job = running.pop(future)
            try:
                result = future.result()
            except _deaths() as death:
                raise DataError(
                    f"the process that {doing(job)} died, for want of memory perhaps; go on with "
                    "--resume and fewer --workers"
                ) from death
            except Exception as error:
                # Ray wraps what a task raised into an error that prints as its whole traceback.
                raise getattr(error, "cause", None) or error from None
            yield job, result


def _deaths() -> tuple[type[Exception], ...]:
    try:
        from ray.exceptions import OutOfMemoryError, WorkerCrashedError
    except ImportError:
        return (BrokenProcessPool,)
    return (BrokenProcessPool, WorkerCrashedError, OutOfMemoryError)


@contextmanager
def _processes(workers: int, log: Path) -> Iterator[Pool]:
    """Executors of one process each, so that a death has one job to its name."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    # Its server, which is silent only once it runs, and all that it forks ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    # Workers hold the one end: closing the other, or dying, ends them all.
    theirs, ours = context.Pipe(duplex=False)
    pool = [ProcessPoolExecutor(1, context, _begin_worker, (theirs, log)) for _ in range(workers)]
    idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
    for one in pool:
        idle.put(one)

    def submit(function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        one = idle.get()
        future = one.submit(function, *arguments)
        future.add_done_callback(lambda _: idle.put(one))
        return future

    try:
        with theirs, ours:
            yield Pool(submit, workers)
    finally:
        for one in pool:
            one.shutdown(cancel_futures=True)


def _begin_worker(alive: Connection, log: Path) -> None:
    """Makes a process quiet, and lets it not outlive its parent."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()


def _end_with(alive: Connection) -> None:
    connection.wait([alive])
    os._exit(1)


@contextmanager
def _ray_tasks(workers: int | None) -> Iterator[Pool]:
    try:
        import ray
    except ImportError:
        raise DataError("--executor ray needs Ray: pip install 'vla-training[ray]'") from None
    address = os.environ.get("RAY_ADDRESS")
    own = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"Ray does not start with RAY_ADDRESS={address}: {reason}") from error
    try:
        count = workers or int(ray.cluster_resources().get("CPU", 1))

        def submit(function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
            # A job that died would die again; what is done is kept for --resume.
            return ray.remote(max_retries=0)(function).remote(*arguments).future()

        yield Pool(submit, count)
    finally:
        ray.shutdown()
