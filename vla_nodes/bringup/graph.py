# SPDX-License-Identifier: Apache-2.0
"""Which processes make the graph, with which parameters.

The launch files and ``vla-bringup`` all read this list, so there is no second copy to keep in
step.
"""

import os
import signal
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "vla_nodes"
DEFAULT_CONTRACT = "sim_arm"
RECORDER = "recorder"
VALUE_MONITOR = "value_monitor"

# Environment variable with the number of the signal that a node gets when its launcher dies, so
# that no node outlives it.
PARENT_DEATH_SIGNAL = "VLA_PARENT_DEATH_SIGNAL"
DDS_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"

# Restarting a process: pause before each try, and how many there are.
RESPAWN_DELAY = 1.0  # s
RESPAWN_TRIES = 3


class BringupError(ValueError):
    """The options given to bring-up do not fit together."""


@dataclass(frozen=True)
class BringupOptions:
    """What a user may choose; the names are those of the launch arguments.

    Attributes:
        contract: Path of the contract, or the name of one that ships with the package.
        backend: What computes the actions: expert, which knows the simulated arm only, pi05 or
            lerobot.
        checkpoint: Folder of the policy's weights; empty for a backend without.
        energy: Folder of the energy model that judges the policy's chunks; empty: no check.
        use_sim: Start the simulated arm; without it the robot's own driver must run.
        use_sim_time: Follow /clock; default: as use_sim.
        lockstep: The simulation waits for the commander instead of keeping real time.
        namespace: Namespace of all nodes.
        params_file: ROS parameter file that overrides everything here.
        device: Where the policy computes: cpu, cuda, cuda:N.
        autostart: The supervisor brings the nodes up by itself.
        rviz: Also start rviz2 (needs a ROS 2 installation).
        record: Folder that gets a folder for every episode; empty: nothing is recorded.
        value_checkpoint: Folder of a value function; empty: the simulation tells the true
            progress, and on a robot nobody does.
        value_engine: What runs it: torch or onnxruntime.
        value_device: Where it computes: cpu, cuda, cuda:N.
    """

    contract: str = DEFAULT_CONTRACT
    backend: str = "expert"
    checkpoint: str = ""
    energy: str = ""
    use_sim: bool = True
    use_sim_time: bool | None = None
    lockstep: bool = False
    namespace: str = ""
    params_file: str = ""
    device: str = "cpu"
    autostart: bool = True
    rviz: bool = False
    record: str = ""
    value_checkpoint: str = ""
    value_engine: str = "torch"
    value_device: str = "cpu"


@dataclass(frozen=True)
class MonitorOptions:
    """What a user may choose for a value monitor alone; the names are those of launch arguments.

    Attributes:
        contract: Path of the contract, or the name of one that ships with the package.
        checkpoint: Folder of the value function.
        task: Task in plain words while no Task message gives one.
        engine: What runs the value function: torch or onnxruntime.
        device: Where it computes: cpu, cuda, cuda:N.
        use_sim_time: Follow /clock, as a played bag needs.
        namespace: Namespace of the node.
        params_file: ROS parameter file that overrides everything here.
        rviz: Also start rviz2 (needs a ROS 2 installation).
    """

    contract: str = DEFAULT_CONTRACT
    checkpoint: str = ""
    task: str = ""
    engine: str = "torch"
    device: str = "cpu"
    use_sim_time: bool = False
    namespace: str = ""
    params_file: str = ""
    rviz: bool = False


@dataclass(frozen=True)
class NodeSpec:
    """One process with one node.

    Attributes:
        name: Node name and name of the executable.
        parameters: ROS parameters.
    """

    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Python module that holds the node's ``main``."""
        return f"{PACKAGE}.nodes.{self.name}"


def graph(options: BringupOptions) -> tuple[NodeSpec, ...]:
    """The graph's nodes in the order of starting; they are ended in reverse.

    Raises:
        BringupError: The options do not fit together.
    """
    contract = str(find_contract(options.contract))
    _check_params_file(options.params_file)
    if not options.use_sim and options.backend == "expert":
        raise BringupError(
            "backend: the scripted expert works on the simulated arm only; choose another one, "
            "or use_sim:=true"
        )
    if options.lockstep and not options.use_sim:
        raise BringupError("lockstep:=true needs use_sim:=true: only the simulation can wait")
    use_sim_time = options.use_sim if options.use_sim_time is None else options.use_sim_time
    if options.lockstep and not use_sim_time:
        raise BringupError("lockstep:=true needs use_sim_time:=true")
    common = {"contract": contract, "use_sim_time": use_sim_time}
    policy = NodeSpec(
        "policy",
        {
            **common,
            "backend": options.backend,
            "checkpoint": options.checkpoint,
            "energy": options.energy,
            "device": options.device,
        },
    )
    commander = NodeSpec("commander", {**common, "lockstep": options.lockstep})
    nodes = [commander, policy]
    if options.use_sim:
        # The simulation is the source of /clock, so it does not follow it.
        simulation = {
            "contract": contract,
            "publish_clock": use_sim_time,
            "lockstep": options.lockstep,
            "publish_value": not options.value_checkpoint,
        }
        nodes.insert(0, NodeSpec("sim", simulation))
    if options.value_checkpoint:
        value = {
            "checkpoint": options.value_checkpoint,
            "engine": options.value_engine,
            "device": options.value_device,
        }
        nodes.append(NodeSpec(VALUE_MONITOR, {**common, **value}))
    if options.record:
        root = Path(options.record).expanduser()
        if not root.is_dir():
            raise BringupError(f"record: no folder '{options.record}'; make it first")
        nodes.append(NodeSpec(RECORDER, {**common, "root": str(root.resolve())}))
    supervisor = {
        **common,
        "autostart": options.autostart,
        "managed_nodes": [node.name for node in nodes],
        # Nothing that only watches may stop the robot.
        "optional_nodes": [VALUE_MONITOR, RECORDER],
    }
    return (*nodes, NodeSpec("supervisor", supervisor))


def monitor_graph(options: MonitorOptions) -> tuple[NodeSpec, ...]:
    """A value monitor alone, which brings itself up.

    Raises:
        BringupError: The options do not fit together.
    """
    _check_params_file(options.params_file)
    if not options.checkpoint:
        raise BringupError("checkpoint: name the folder of a value function")
    parameters = {
        "contract": str(find_contract(options.contract)),
        "checkpoint": options.checkpoint,
        "task": options.task,
        "engine": options.engine,
        "device": options.device,
        "use_sim_time": options.use_sim_time,
        "autostart": True,
    }
    return (NodeSpec(VALUE_MONITOR, parameters),)


def find_contract(name: str) -> Path:
    """Path of a contract file, or of the one called ``name`` that ships with the package.

    Raises:
        BringupError: There is neither such a file nor such a name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path.resolve()
        raise BringupError(f"contract: no file '{name}'")
    folder = share_folder() / "config" / "contracts"
    shipped = sorted(file.stem for file in folder.glob("*.yaml"))
    if name in shipped:
        return folder / f"{name}.yaml"
    raise BringupError(
        f"contract: '{name}' is neither a .yaml file nor one of {', '.join(shipped)}"
    )


def _check_params_file(file: str) -> None:
    if file and not Path(file).is_file():
        raise BringupError(f"params_file: no file '{file}'")


def node_environment() -> dict[str, str]:
    """Environment variables of the nodes' processes, beyond those of the launcher."""
    profile = os.environ.get(DDS_PROFILE) or str(share_folder() / "config" / "fastdds.xml")
    return {PARENT_DEATH_SIGNAL: str(int(signal.SIGINT)), DDS_PROFILE: profile}


def share_folder() -> Path:
    """Folder that holds ``config/``: the checkout, or what an installation put in ``share/``."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "package.xml").is_file():
        return checkout
    for parent in Path(__file__).resolve().parents:
        if (parent / "share" / PACKAGE / "config").is_dir():
            return parent / "share" / PACKAGE
    return Path(sysconfig.get_path("data")) / "share" / PACKAGE
