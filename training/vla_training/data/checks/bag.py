# SPDX-License-Identifier: Apache-2.0
"""Every check of a bag."""

from collections.abc import Iterator
from pathlib import Path

from vla_nodes.contract import contract_digest
from vla_nodes.contract.schema import Contract
from vla_training.data.bags.bag import Bag, open_bag
from vla_training.data.bags.errors import BagError, shown
from vla_training.data.checks.bag_joints import check_joints
from vla_training.data.checks.bag_pictures import check_pictures
from vla_training.data.checks.bag_streams import (
    check_delays,
    check_gaps,
    check_rates,
    check_skews,
    check_stamps,
    check_topics,
)
from vla_training.data.checks.findings import Finding
from vla_training.data.checks.recording import read_recording

_TASK = "vla_interfaces/msg/Task"


def check_bag(path: Path, contract: Contract) -> list[Finding]:
    """Checks a bag against a contract; reads it once.

    A bag that cannot be read is a finding, not an error.
    """
    findings: list[Finding] = []
    try:
        with open_bag(path) as bag:
            # One by one: what was found before a bag breaks off is kept.
            for finding in _check(bag, contract):
                findings.append(finding)  # noqa: PERF402
    except BagError as error:
        findings.append(Finding("file", path.name, "fail", str(error)))
    return findings


def _check(bag: Bag, contract: Contract) -> Iterator[Finding]:
    yield from check_topics(bag, contract)
    yield from _check_words(bag, contract)
    recording = read_recording(bag, contract)
    yield from _check_file(bag)
    yield from check_stamps(recording)
    yield from check_delays(recording, contract)
    yield from check_rates(recording, contract)
    yield from check_gaps(recording, contract)
    yield from check_skews(recording, contract)
    yield from check_joints(recording, contract)
    yield from check_pictures(recording, contract.checks)


def _check_file(bag: Bag) -> Iterator[Finding]:
    """What the reader had to say, once everything was read."""
    for note in bag.notes:
        yield Finding("file", bag.path.name, "warn", note)
    if not bag.notes:
        seconds = (bag.end - bag.start) * 1e-9
        yield Finding("file", bag.path.name, "ok", f"whole, {seconds:.1f} s", seconds)


def _check_words(bag: Bag, contract: Contract) -> Iterator[Finding]:
    """The tasks are the contract's, and the contract is the one it was recorded under."""
    topics = [name for name, topic in bag.topics.items() if topic.type == _TASK]
    tasks = {sample.message.text for sample in bag.messages(topics)} if topics else set()
    tasks.add(bag.custom.get("task", ""))
    for task in sorted(tasks - {""}):  # a lease without a goal has no text
        known = not contract.tasks or task.strip() in contract.tasks
        text = "a task of the contract" if known else "not a task of the contract: robots refuse it"
        yield Finding("task", shown(task), "ok" if known else "warn", text)
    digest = bag.custom.get("contract_digest")
    if digest and digest != contract_digest(contract):
        text = f"recorded under another contract, whose digest begins with {shown(digest, 12)}"
        yield Finding("contract", bag.path.name, "warn", text)
