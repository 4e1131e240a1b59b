# SPDX-License-Identifier: Apache-2.0
"""ament_python package of the robot-side nodes."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "vla_nodes"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", glob("config/*.yaml")),
        (f"share/{PACKAGE}/config/contracts", glob("config/contracts/*")),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="vla_nodes maintainers",
    maintainer_email="maintainers@vla-nodes.org",
    description="Lifecycle nodes that run vision-language-action policies on a robot.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "commander = vla_nodes.nodes.commander:main",
            "policy = vla_nodes.nodes.policy:main",
            "supervisor = vla_nodes.nodes.supervisor:main",
            "sim = vla_nodes.nodes.sim:main",
            "vla-bringup = vla_nodes.bringup.main:main",
            "vla-demo = vla_nodes.nodes.demo:main",
        ]
    },
)
