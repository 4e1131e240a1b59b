# SPDX-License-Identifier: Apache-2.0
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import vla_nodes.sim.arm_env  # noqa: F401  (registers the environment)
from vla_nodes.sim.arm import HOME
from vla_nodes.sim.expert import ScriptedExpert
from vla_nodes.sim.scene import UPPER, VELOCITY
from vla_nodes.sim.tasks import subtask_text


@pytest.fixture
def env():
    env = gymnasium.make("vla_nodes/TabletopArm-v0", render_mode="rgb_array")
    yield env
    env.close()


@pytest.mark.filterwarnings("ignore:.*normalized space")
def test_gymnasium_accepts_the_environment(env):
    check_env(env.unwrapped)


def run(env, seed):
    rng = np.random.default_rng(0)
    first, _ = env.reset(seed=seed, options={"cubes": 3, "distractors": 1})
    actions = rng.uniform(env.action_space.low, env.action_space.high, (10, 6))
    return [first, *(env.step(action)[0] for action in actions)]


def test_the_same_seed_and_actions_give_the_same_observations(env):
    for first, second in zip(run(env, 5), run(env, 5), strict=True):
        for key in ("front", "wrist", "state"):
            np.testing.assert_array_equal(first[key], second[key])


def test_other_seeds_lay_other_tables(env):
    assert (run(env, 5)[0]["front"] != run(env, 6)[0]["front"]).any()


def test_resets_without_a_seed_go_on_from_the_last_one(env):
    def fronts():
        return [env.reset(seed=3)[0]["front"], env.reset()[0]["front"], env.reset()[0]["front"]]

    first, second = fronts(), fronts()
    np.testing.assert_array_equal(first, second)
    assert (first[1] != first[2]).any()


def test_a_far_target_is_approached_at_the_speed_limit(env):
    before = env.reset(seed=0)[0]["state"]
    after = env.step(UPPER)[0]["state"]
    assert (np.abs(after - before) <= 1.1 * VELOCITY / 20 + 1e-6).all()
    assert after[0] > before[0]


def test_the_episode_ends_with_a_reward_when_the_task_is_done(env):
    task = subtask_text("blue")
    observation, info = env.reset(seed=0, options={"task": task, "colours": ("blue",)})
    expert = ScriptedExpert()
    rewards = []
    for step in range(150):
        if step % 4 == 0:
            chunk, _ = expert.plan(
                observation["state"], env.unwrapped.arm.scene_vector(), info["task"]
            )
        observation, reward, terminated, truncated, info = env.step(chunk[step % 4])
        rewards.append(reward)
        if terminated:
            break
    assert terminated
    assert not truncated
    assert info["success"]
    assert sum(rewards) == rewards[-1] == 1.0


def test_a_task_that_the_layout_cannot_do_is_refused(env):
    with pytest.raises(ValueError, match="there is no red cube; present are"):
        env.reset(seed=0, options={"task": subtask_text("red"), "colours": ("blue",)})


def test_people_get_an_overview(env):
    env.reset(seed=0)
    assert env.render().shape == (480, 640, 3)
    np.testing.assert_allclose(env.unwrapped.arm.joint_positions, HOME)
