# SPDX-License-Identifier: Apache-2.0
"""The MuJoCo model of the scene, as an MJCF document.

Everything is a primitive shape, so that a frame renders in a few milliseconds on a CPU. All cubes
and distractors are always in the model; those that a layout leaves out are parked under the
floor, so that body ids never change.
"""

import numpy as np

from vla_nodes.sim.scene import (
    ARM_JOINTS,
    COLOURS,
    CUBE,
    CUBES,
    DISTRACTORS,
    FORCE,
    JOINTS,
    KP,
    KV,
    LINK,
    LOWER,
    SHOULDER_HEIGHT,
    TIMESTEP,
    TOOL,
    TRAY_FLOOR,
    TRAY_HOME,
    TRAY_INNER,
    TRAY_WALL,
    UPPER,
    parked_position,
)


def mjcf() -> str:
    """The scene as an MJCF document."""
    return f"""
<mujoco model="tabletop_arm">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <statistic center="0.2 0 0.1" extent="0.8"/>
  <visual>
    <global offwidth="1920" offheight="1080"/>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient="0.32 0.32 0.34" diffuse="0.18 0.18 0.18" specular="0 0 0"/>
    <map znear="0.02" zfar="20" shadowclip="1.6"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.90 0.93 0.96"
             rgb2="0.55 0.62 0.70" width="64" height="384"/>
    <texture name="floor" type="2d" builtin="checker" rgb1="0.46 0.49 0.53"
             rgb2="0.43 0.46 0.50" width="128" height="128"/>
    <material name="floor" texture="floor" texrepeat="8 8"/>
    <material name="table" rgba="0.79 0.72 0.62 1" specular="0.1" shininess="0.2"/>
    <material name="shell" rgba="0.93 0.93 0.94 1" specular="0.4" shininess="0.6"/>
    <material name="joint" rgba="0.16 0.18 0.21 1" specular="0.4" shininess="0.5"/>
    <material name="accent" rgba="0.10 0.55 0.62 1" specular="0.3" shininess="0.5"/>
    <material name="finger" rgba="0.24 0.26 0.30 1" specular="0.1"/>
    <material name="tray" rgba="0.30 0.32 0.36 1" specular="0.1"/>
  </asset>
  <default>
    <geom solref="0.01 1" friction="1 0.02 0.001" condim="4"/>
    <default class="palm">
      <geom type="box" size="0.014 0.052 0.016" mass="0.1" material="joint"/>
    </default>
    <default class="visual">
      <geom contype="0" conaffinity="0"/>
      <default class="shell"><geom material="shell"/></default>
      <default class="joint"><geom material="joint"/></default>
      <default class="accent"><geom material="accent"/></default>
    </default>
    <default class="finger">
      <geom type="box" size="0.039 0.005 0.009" mass="0.03" material="finger"
            friction="2 0.05 0.001" priority="1"/>
    </default>
    <default class="tray"><geom type="box" material="tray"/></default>
  </default>
  <worldbody>
    <light name="key" pos="0.9 -0.7 1.7" dir="-0.45 0.40 -1" diffuse="0.62 0.60 0.56"
           specular="0.3 0.3 0.3" type="directional" castshadow="true"/>
    <light name="fill" pos="-0.6 0.9 1.4" dir="0.5 -0.6 -0.8" diffuse="0.20 0.22 0.26"
           specular="0 0 0" type="directional" castshadow="false"/>
    {_camera("front", (0.80, -0.04, 0.52), target=(0.22, -0.04, 0.06), fovy=45)}
    {_camera("overview", (1.10, 0.62, 0.72), target=(0.16, -0.02, 0.13), fovy=37)}
    <geom name="floor" type="box" pos="0 0 -0.78" size="4 4 0.05" material="floor"/>
    <geom name="table" type="box" pos="0.28 0.05 -0.02" size="0.55 0.60 0.02" material="table"/>
    {_table_legs()}
    {_tray()}
    {_arm()}
    {"".join(_cube(name) for name in CUBES)}
    {"".join(_body(name, *DISTRACTORS[name]) for name in DISTRACTORS)}
  </worldbody>
  <contact><exclude body1="left_finger" body2="right_finger"/></contact>
  <equality>
    <joint joint1="right_finger" joint2="gripper" polycoef="0 1 0 0 0" solref="0.005 1"/>
  </equality>
  <actuator>{_actuators()}</actuator>
</mujoco>"""


def _camera(name: str, position: tuple[float, ...], target: tuple[float, ...], fovy: float) -> str:
    """A fixed, upright camera that looks at a point; MuJoCo's cameras look along -z."""
    back = np.subtract(position, target)
    right = np.cross((0.0, 0.0, 1.0), back)
    axes = " ".join(f"{value:.6f}" for value in (*right, *np.cross(back, right)))
    at = " ".join(map(str, position))
    return f'<camera name="{name}" pos="{at}" fovy="{fovy}" xyaxes="{axes}"/>'


def _table_legs() -> str:
    return "".join(
        f'<geom class="joint" type="box" pos="{x} {y} -0.385" size="0.025 0.025 0.345"/>'
        for x in (-0.22, 0.78)
        for y in (-0.5, 0.6)
    )


def _tray() -> str:
    half, thick, height = TRAY_INNER, 0.003, TRAY_WALL / 2
    outer, at = half + 2 * thick, half + thick
    walls = "".join(
        f'<geom class="tray" pos="{x} {y} {height}" size="{sx} {sy} {height}"/>'
        for x, y, sx, sy in (
            (at, 0, thick, outer),
            (-at, 0, thick, outer),
            (0, at, half, thick),
            (0, -at, half, thick),
        )
    )
    middle = TRAY_FLOOR / 2
    floor = f'<geom class="tray" pos="0 0 {middle}" size="{half} {half} {middle}"/>'
    x, y = TRAY_HOME
    return f'<body name="tray" mocap="true" pos="{x} {y} 0">{floor}{walls}</body>'


def _joint(name: str, axis: str) -> str:
    i = ARM_JOINTS.index(name) if name in ARM_JOINTS else -1
    kind, armature = ("hinge", 0.05) if name in ARM_JOINTS else ("slide", 0.02)
    return (
        f'<joint name="{name}" type="{kind}" axis="{axis}" range="{LOWER[i]} {UPPER[i]}"'
        f' limited="true" armature="{armature}" damping="0.1"/>'
    )


def _arm() -> str:
    return f"""
    <geom class="joint" type="cylinder" pos="0 0 0.02" size="0.075 0.02"/>
    <body name="pan" pos="0 0 0.04" gravcomp="1">
      {_joint("pan", "0 0 1")}
      <geom class="shell" type="cylinder" pos="0 0 0.035" size="0.055 0.035" mass="0.5"/>
      <geom class="accent" type="cylinder" pos="0 0 0.072" size="0.056 0.003" mass="0.02"/>
      <geom class="shell" type="box" pos="0 0 0.085" size="0.03 0.035 0.02" mass="0.1"/>
      <body name="lift" pos="0 0 {SHOULDER_HEIGHT - 0.04}" gravcomp="1">
        {_joint("lift", "0 -1 0")}
        <geom class="joint" type="cylinder" zaxis="0 1 0" size="0.036 0.048" mass="0.1"/>
        <geom class="shell" type="capsule" fromto="0 0 0 {LINK} 0 0" size="0.027" mass="0.4"/>
        <body name="elbow" pos="{LINK} 0 0" gravcomp="1">
          {_joint("elbow", "0 -1 0")}
          <geom class="joint" type="cylinder" zaxis="0 1 0" size="0.031 0.04" mass="0.1"/>
          <geom class="shell" type="capsule" fromto="0 0 0 {LINK} 0 0" size="0.022" mass="0.25"/>
          <geom class="accent" type="cylinder" fromto="0.11 0 0 0.13 0 0" size="0.0235" mass="0"/>
          <body name="flex" pos="{LINK} 0 0" gravcomp="1">
            {_joint("flex", "0 -1 0")}
            <geom class="joint" type="cylinder" zaxis="0 1 0" size="0.025 0.032" mass="0.08"/>
            <geom class="shell" type="cylinder" fromto="0 0 0 0.04 0 0" size="0.018" mass="0.05"/>
            <body name="roll" pos="0.04 0 0" gravcomp="1">
              {_joint("roll", "-1 0 0")}
              <geom class="palm" pos="0.018 0 0"/>
              <geom class="joint" type="box" pos="0.012 0 0.035" size="0.01 0.012 0.022" mass="0"/>
              <camera name="wrist" pos="0.012 0 0.062" fovy="75" xyaxes="0 -1 0 0.42 0 0.907"/>
              <site name="tool" pos="{TOOL - 0.04} 0 0" size="0.004" rgba="0 0 0 0"/>
              <body name="left_finger" pos="0.071 0.005 0" gravcomp="1">
                {_joint("gripper", "0 1 0")}
                <geom class="finger"/>
              </body>
              <body name="right_finger" pos="0.071 -0.005 0" gravcomp="1">
                {_joint("right_finger", "0 -1 0")}
                <geom class="finger"/>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _cube(name: str) -> str:
    return _body(name, "box", (CUBE / 2,) * 3, COLOURS[name.removesuffix("_cube")])


def _body(
    name: str, shape: str, size: tuple[float, ...], colour: tuple[float, float, float]
) -> str:
    position = " ".join(map(str, parked_position(name)))
    # Weightless while parked; the reset gives those on the table their weight back.
    return (
        f'<body name="{name}" pos="{position}" gravcomp="1"><freejoint name="{name}"/>'
        f'<geom name="{name}" type="{shape}" size="{" ".join(map(str, size))}" mass="0.04"'
        f' rgba="{" ".join(map(str, colour))} 1"/></body>'
    )


def _actuators() -> str:
    return "".join(
        f'<position name="{name}" joint="{name}" kp="{KP[i]}" kv="{KV[i]}"'
        f' forcerange="{-FORCE[i]} {FORCE[i]}"/>'
        for i, name in enumerate(JOINTS)
    )
