# SPDX-License-Identifier: Apache-2.0
"""ament_python package of the robot-side nodes."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "vla_nodes"


def files(folder: str, pattern: str) -> list[str]:
    """Files of a folder to be installed."""
    return sorted(str(path) for path in Path(folder).glob(pattern))


setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", files("launch", "*.launch.py")),
        (f"share/{PACKAGE}/config", files("config", "*.*")),
        (f"share/{PACKAGE}/config/contracts", files("config/contracts", "*")),
    ],
    install_requires=["setuptools"],
    extras_require={"rerun": ["rerun-sdk>=0.23"], "test": ["pytest"]},
    zip_safe=True,
    maintainer="vla_nodes maintainers",
    maintainer_email="maintainers@vla-nodes.org",
    description="Lifecycle nodes that run vision-language-action policies on a robot.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "commander = vla_nodes.nodes.commander:main",
            "policy = vla_nodes.nodes.policy:main",
            "recorder = vla_nodes.nodes.recorder:main",
            "supervisor = vla_nodes.nodes.supervisor:main",
            "sim = vla_nodes.nodes.sim:main",
            "value_monitor = vla_nodes.nodes.value_monitor:main",
            "vla-bringup = vla_nodes.bringup.main:main",
            "vla-demo = vla_nodes.nodes.demo:main",
            "vla-monitor = vla_nodes.bringup.main:monitor",
            "vla-watch = vla_nodes.nodes.watch:main",
        ]
    },
)
