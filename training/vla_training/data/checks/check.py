# SPDX-License-Identifier: Apache-2.0
"""The command ``vla-check``: is this bag, is this dataset fit to train on?"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from vla_nodes.contract import ContractError, load_contract
from vla_nodes.contract.schema import Contract
from vla_training.data.bags.finding import find_bags
from vla_training.data.checks.against import compare
from vla_training.data.checks.bag import check_bag
from vla_training.data.checks.dataset import check_dataset
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding, as_json, print_findings, worst
from vla_training.data.errors import DataError
from vla_training.data.files import write_whole

Folder = tyro.conf.Positional[Path]


@dataclass(frozen=True)
class BagArguments:
    """Check a recording against the robot's contract.

    Attributes:
        path: A bag: a rosbag2 folder, an .mcap, .db3 or .bag file.
        contract: The robot's contract.
        json: File to write the findings to as well.
    """

    path: Folder
    contract: Path
    json: Path | None = None


@dataclass(frozen=True)
class DatasetArguments:
    """Check a LeRobot v3 dataset: every row and every picture.

    Attributes:
        path: Folder of the dataset.
        contract: The robot's contract; without one, what the dataset says of itself is checked.
        against: Bags that it was made from: every value is computed anew from their messages.
        json: File to write the findings to as well.
    """

    path: Folder
    contract: Path | None = None
    against: tuple[Path, ...] = ()
    json: Path | None = None


Arguments = (
    Annotated[BagArguments, tyro.conf.subcommand("bag")]
    | Annotated[DatasetArguments, tyro.conf.subcommand("dataset")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments; those of the process where None.

    Returns:
        0 when nothing failed, 1 when something did, 2 for arguments that cannot be used.
    """
    arguments = tyro.cli(Arguments, prog="vla-check", description=__doc__, args=argv)
    try:
        contract = load_contract(arguments.contract) if arguments.contract else None
    except ContractError as error:
        return _unusable(str(error))
    if not arguments.path.exists():
        return _unusable(f"{arguments.path}: no such file or folder")
    if arguments.json and not arguments.json.parent.is_dir():
        return _unusable(f"{arguments.json.parent}: no such folder, expected one for --json")
    if isinstance(arguments, BagArguments):
        assert contract is not None
        kind, findings = "bag", check_bag(arguments.path, contract)
    else:
        kind = "dataset"
        if arguments.against and contract is None:
            return _unusable("--against needs --contract: it says what the bag's messages mean")
        findings = _check_dataset(arguments, contract)
    print_findings(f"{kind} {arguments.path}", findings)
    if arguments.json:
        try:
            write_whole(arguments.json, as_json(kind, arguments.path, findings))
        except DataError as error:
            return _unusable(str(error))
    return 1 if worst(findings) == "fail" else 0


def _check_dataset(arguments: DatasetArguments, contract: Contract | None) -> list[Finding]:
    with _progress() as progress:
        dataset, findings = check_dataset(arguments.path, contract, progress)
        if arguments.against and contract is not None:
            findings += _compare(dataset, findings, contract, arguments.against, progress)
    return findings


def _compare(
    dataset: Dataset | None,
    findings: Sequence[Finding],
    contract: Contract,
    bags: Sequence[Path],
    progress: Callable[[int], object],
) -> list[Finding]:
    """The dataset against its bags, if it is whole enough."""
    if dataset is None or any(finding.check == "rows" for finding in findings):
        return [Finding("against", "rows", "fail", "not compared: the tables are damaged")]
    try:
        return compare(dataset, contract, find_bags(bags), progress)
    except DataError as error:
        return [Finding("against", "bags", "fail", f"not compared: {error}")]


@contextmanager
def _progress() -> Iterator[Callable[[int], object]]:
    with tqdm(unit=" pictures", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield bar.update


def _unusable(text: str) -> int:
    print(f"vla-check: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
