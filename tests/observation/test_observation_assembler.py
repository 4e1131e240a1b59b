# SPDX-License-Identifier: Apache-2.0
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from observation_samples import EPOCH, MS, arm, camera, contract, flat_image, image, joints

from vla_nodes.observation import assembler
from vla_nodes.observation.assembler import ObservationAssembler
from vla_nodes.observation.observation import NotReady, Observation


def add_image(robot, ms, value=0, name="front", late_ms=0):
    stamp = EPOCH + ms * MS
    return robot.add_image(name, flat_image(value), stamp, stamp + late_ms * MS)


def add_state(robot, ms, position=(0.0, 0.0), name="arm"):
    stamp = EPOCH + ms * MS
    return robot.add_state(name, joints(position), stamp, stamp)


def observe(robot, ms, now_ms=None):
    now = None if now_ms is None else EPOCH + now_ms * MS
    return robot.observe(EPOCH + ms * MS, now)


def latest(robot, now_ms):
    return robot.latest(EPOCH + now_ms * MS)


def why(result):
    assert isinstance(result, NotReady), result
    return result.stream, result.reason


def two_cameras():
    return ObservationAssembler(contract((camera(), camera("wrist"))))


def test_an_observation_holds_every_input_at_its_stamp():
    robot = ObservationAssembler(
        contract((camera(), camera("wrist")), (arm(), arm("base", ("x",)))),
        extra_states=(arm("leader", ("l",)),),
    )
    add_image(robot, 90, 9)
    add_image(robot, 100, 10)
    add_image(robot, 130, 13)
    add_image(robot, 85, 8, "wrist")
    for ms in (80, 120):
        add_state(robot, ms, (ms, -ms))
    for ms in (95, 105):
        stamp = EPOCH + ms * MS
        robot.add_state("base", joints([2 * ms], ["x"]), stamp, stamp)
        robot.add_state("leader", joints([3 * ms], ["l"]), stamp, stamp)
    made = observe(robot, 100, now_ms=135)
    assert isinstance(made, Observation)
    assert made.stamp == EPOCH + 100 * MS
    assert {name: int(picture.max()) for name, picture in made.images.items()} == {
        "front": 10,
        "wrist": 8,
    }
    np.testing.assert_allclose(made.state, [100, -100, 200])
    assert list(made.extras) == ["leader"]
    np.testing.assert_allclose(made.extras["leader"], [300])
    assert made.ages == pytest.approx(
        {"front": 0.035, "wrist": 0.050, "arm": 0.055, "base": 0.040, "leader": 0.040}
    )
    assert {k: abs(v) for k, v in made.skews.items()} == pytest.approx(
        {"front": 0.0, "wrist": 0.015, "arm": 0.020, "base": 0.005, "leader": 0.005}
    )
    assert made.skews["wrist"] == pytest.approx(-0.015)


def test_a_sample_after_the_stamp_has_a_positive_skew():
    robot = ObservationAssembler(contract())
    add_image(robot, 0)
    add_state(robot, -30)
    add_state(robot, 10)
    made = observe(robot, 0)
    assert made.skews["arm"] == pytest.approx(0.010)
    assert made.ages["arm"] == pytest.approx(0.030)


def test_a_stream_that_never_came_is_missing():
    robot = two_cameras()
    assert why(latest(robot, 0)) == ("front", "missing")
    add_image(robot, 0)
    add_state(robot, 0)
    assert why(latest(robot, 0)) == ("wrist", "missing")
    add_image(robot, 0, name="wrist")
    assert isinstance(latest(robot, 0), Observation)


def test_a_stream_that_began_after_the_stamp_is_missing():
    robot = ObservationAssembler(contract())
    add_image(robot, 0)
    add_state(robot, 10)
    assert why(observe(robot, 0)) == ("arm", "missing")


def test_a_stale_camera_makes_no_observation():
    robot = two_cameras()
    add_image(robot, 0, name="wrist")
    for ms in range(0, 300, 30):
        add_image(robot, ms)
        add_state(robot, ms)
    assert why(observe(robot, 180)) == ("wrist", "stale")
    assert "max_age is 0.15 s" in str(observe(robot, 180))
    # By now it has stopped, though at that stamp it was fresh.
    assert isinstance(observe(robot, 60, now_ms=150), Observation)
    assert why(observe(robot, 60, now_ms=151)) == ("wrist", "stale")


def test_a_reference_that_stopped_is_stale():
    robot = ObservationAssembler(contract(states=(arm(max_age=9.0),)))
    add_image(robot, 0)
    add_state(robot, 0)
    assert isinstance(latest(robot, 150), Observation)
    assert why(latest(robot, 151)) == ("front", "stale")


def test_a_state_is_pending_first_and_then_stale():
    robot = ObservationAssembler(contract())
    add_state(robot, 0)
    add_image(robot, 100)
    assert why(observe(robot, 100)) == ("arm", "pending")
    add_image(robot, 101)
    assert why(observe(robot, 101)) == ("arm", "stale")


def test_nothing_is_interpolated_across_a_gap():
    robot = ObservationAssembler(contract())
    add_state(robot, 0)
    add_image(robot, 50)
    add_state(robot, 151)
    assert why(observe(robot, 50)) == ("arm", "stale")


def test_a_skewed_input_makes_no_observation():
    robot = two_cameras()
    add_image(robot, 0, name="wrist")
    for ms in (0, 60, 61):
        add_image(robot, ms)
        add_state(robot, ms)
    assert isinstance(observe(robot, 60), Observation)
    assert why(observe(robot, 61)) == ("wrist", "skewed")


def test_latest_takes_an_earlier_stamp_while_the_newest_is_pending():
    robot = ObservationAssembler(contract())
    for ms in (0, 30, 60):
        add_image(robot, ms, ms)
    add_state(robot, 0, (1, 0))
    add_state(robot, 40, (5, 0))
    made = latest(robot, 70)
    assert (made.stamp, made.images["front"].max()) == (EPOCH + 30 * MS, 30)
    # The same is not made twice, nor anything before it.
    assert why(latest(robot, 70)) == ("arm", "pending")
    add_state(robot, 60, (7, 0))
    assert latest(robot, 70).stamp == EPOCH + 60 * MS
    assert latest(robot, 71).stamp == EPOCH + 60 * MS


def test_latest_makes_nothing_older_than_the_reference_may_be():
    robot = ObservationAssembler(contract(states=(arm(max_age=9.0),)))
    add_image(robot, 0)
    add_image(robot, 100)
    add_state(robot, 0)
    assert latest(robot, 150).stamp == EPOCH
    robot.clear()
    add_image(robot, 0)
    add_image(robot, 100)
    add_state(robot, 0)
    assert why(latest(robot, 151)) == ("arm", "pending")


def test_a_robot_without_cameras_observes_at_its_reference_state():
    robot = ObservationAssembler(contract((), (arm(), arm("base")), reference="base"))
    add_state(robot, 0, (0, 0))
    add_state(robot, 10, (10, 0), "base")
    assert why(latest(robot, 20)) == ("arm", "pending")
    add_state(robot, 20, (20, 0))
    made = latest(robot, 20)
    assert made.stamp == EPOCH + 10 * MS
    assert made.images == {}
    np.testing.assert_allclose(made.state, [10, 0, 10, 0])


def test_a_missing_reference_is_blamed_before_others():
    robot = ObservationAssembler(contract(reference="arm"))
    assert why(latest(robot, 0)) == ("arm", "missing")
    add_image(robot, 0)
    assert why(latest(robot, 0)) == ("arm", "missing")


def test_a_duplicate_or_late_sample_changes_nothing():
    robot = ObservationAssembler(contract())
    add_image(robot, 100, 1)
    assert add_image(robot, 100, 2) == "duplicate"
    assert add_image(robot, 60, 3) == "out_of_order"
    add_state(robot, 100, (1, 1))
    assert add_state(robot, 100, (2, 2)) == "duplicate"
    assert add_state(robot, 99, (3, 3)) == "out_of_order"
    made = latest(robot, 100)
    assert made.images["front"].max() == 1
    np.testing.assert_array_equal(made.state, [1, 1])
    health = robot.health(EPOCH)
    assert health["front"].faults == {"duplicate": 1, "out_of_order": 1}
    assert health["arm"].faults == {"duplicate": 1, "out_of_order": 1}
    assert health["arm"].received == 3


def test_a_stamp_of_the_future_is_refused():
    robot = ObservationAssembler(contract())
    assert add_image(robot, 100, late_ms=-51) == "future"
    assert add_image(robot, 100, late_ms=-50) is None


def test_on_the_timeline_of_receipt_the_header_does_not_matter():
    robot = ObservationAssembler(contract(timeline="receive"))
    for ms in (0, 10):
        robot.add_image("front", flat_image(ms), 0, EPOCH + ms * MS)
        robot.add_state("arm", joints([ms, 0]), 10**18, EPOCH + ms * MS)
    made = latest(robot, 10)
    assert made.stamp == EPOCH + 10 * MS
    assert made.state[0] == 10


@pytest.mark.parametrize("restarted", ["image", "state"])
def test_a_jump_back_of_any_stream_clears_all(restarted):
    robot = ObservationAssembler(contract())
    for ms in range(1000, 1200, 20):
        add_image(robot, ms)
        add_state(robot, ms)
    assert isinstance(latest(robot, 1190), Observation)
    first, second = (add_image, add_state) if restarted == "image" else (add_state, add_image)
    assert first(robot, 0) is None
    assert why(latest(robot, 0))[1] == "missing"
    assert second(robot, 0) is None
    assert latest(robot, 0).stamp == EPOCH
    faults = [health.faults for health in robot.health(EPOCH).values()]
    assert sorted(faults, key=len) == [{}, {"clock_jump": 1}]


def test_after_a_jump_back_earlier_stamps_serve_again():
    robot = ObservationAssembler(contract())
    add_image(robot, 1000)
    add_state(robot, 1000)
    assert latest(robot, 1000).stamp == EPOCH + 1000 * MS
    add_image(robot, 0)
    add_state(robot, 0)
    add_image(robot, 30)
    assert latest(robot, 30).stamp == EPOCH


def test_a_cleared_assembler_knows_nothing_but_its_figures():
    robot = ObservationAssembler(contract())
    add_image(robot, 0)
    add_state(robot, 0)
    robot.clear()
    assert why(latest(robot, 0)) == ("front", "missing")
    assert robot.health(EPOCH)["front"].received == 1


def test_a_frame_that_cannot_be_read_is_not_replaced_by_the_one_before():
    robot = ObservationAssembler(contract())
    add_image(robot, 0)
    stamp = EPOCH + 10 * MS
    assert robot.refuse_image("front", "no key frame came yet", stamp, stamp) is not None
    for ms in (0, 10, 20):
        add_state(robot, ms)
    assert isinstance(observe(robot, 9), Observation)
    assert str(observe(robot, 10)) == "front is corrupt: no key frame came yet"
    assert robot.health(EPOCH)["front"].faults == {"corrupt": 1}
    assert robot.refuse_image("front", "late", EPOCH, EPOCH) == "out_of_order"


def test_the_newest_stamp_of_a_stream_is_known_and_its_pictures_can_be_let_go():
    robot = two_cameras()
    assert robot.newest("wrist") is None
    for ms in (0, 10, 20):
        add_image(robot, ms, ms)
        add_image(robot, ms + 5, ms, "wrist")
        add_state(robot, ms)
    assert robot.newest("front") == EPOCH + 20 * MS
    assert robot.newest("arm") == EPOCH + 20 * MS
    robot.forget(EPOCH + 17 * MS)
    made = observe(robot, 17)
    assert {name: int(picture.max()) for name, picture in made.images.items()} == {
        "front": 10,
        "wrist": 10,
    }
    assert why(observe(robot, 9)) == ("front", "missing")
    robot.forget(EPOCH + 1000 * MS)
    assert robot.newest("front") == EPOCH + 20 * MS


def jpeg(value):
    data = cv2.imencode(".jpg", np.full((6, 8, 3), value, np.uint8))[1].tobytes()
    return SimpleNamespace(format="jpeg", data=data)


@pytest.mark.parametrize("damage", ["cut short", "undecodable"])
def test_a_corrupt_picture_is_never_replaced_by_the_one_before(damage):
    robot = ObservationAssembler(contract((camera(encoding="jpeg", raw=False),)))
    frames = [jpeg(value) for value in (50, 100, 150)]
    if damage == "cut short":
        frames[1].data = frames[1].data[:-2]
    else:
        frames[1].data = frames[1].data.replace(b"\xff\xdb", b"\xff\xec")  # no quantisation tables
    made = []
    for i, frame in enumerate(frames):
        stamp = EPOCH + i * MS
        robot.add_image("front", frame, stamp, stamp)
        robot.add_state("arm", joints([0, 0]), stamp, stamp)
        made.append(latest(robot, i))
    assert abs(int(made[0].images["front"].max()) - 50) < 4
    assert why(made[1]) == ("front", "corrupt")
    assert abs(int(made[2].images["front"].max()) - 150) < 4
    observe(robot, 1)
    health = robot.health(EPOCH)["front"]
    assert health.faults == {"corrupt": 1}
    assert "jpeg" in health.last_fault


def test_a_frame_of_another_size_is_refused_when_it_comes():
    robot = ObservationAssembler(contract())
    add_state(robot, 0)
    wide = flat_image(size=(9, 6))
    assert robot.add_image("front", wide, EPOCH, EPOCH) == "width is 9, expected 8"
    assert why(latest(robot, 0)) == ("front", "corrupt")
    assert robot.health(EPOCH)["front"].last_fault == "corrupt: width is 9, expected 8"


def test_a_state_without_a_joint_is_refused_and_counted():
    robot = ObservationAssembler(contract())
    refusal = robot.add_state("arm", joints([1], ["a"]), EPOCH, EPOCH)
    assert refusal == "joint 'b' is missing, found a"
    assert robot.add_state("arm", joints([1, np.nan]), EPOCH, EPOCH) is not None
    add_image(robot, 0)
    assert why(latest(robot, 0)) == ("arm", "missing")
    assert robot.health(EPOCH)["arm"].faults == {"joints": 2}


def test_a_frame_nobody_asks_for_is_not_decoded_and_no_frame_twice(monkeypatch):
    decoded = []
    real = assembler.decode_camera

    def decode(camera, message):
        decoded.append(message)
        return real(camera, message)

    monkeypatch.setattr(assembler, "decode_camera", decode)
    robot = ObservationAssembler(contract())
    for ms in range(5):
        add_image(robot, ms)
        add_state(robot, ms)
    for _ in range(3):
        latest(robot, 4)
    assert len(decoded) == 1


def test_a_frozen_picture_is_flagged_but_still_used():
    robot = ObservationAssembler(contract())
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (25, 6, 8, 3), dtype=np.uint8)
    noise[5:20] = noise[5]
    flags = []
    for ms, pixels in enumerate(noise):
        stamp = EPOCH + ms * MS
        robot.add_image("front", image(pixels), stamp, stamp)
        add_state(robot, ms)
        assert isinstance(latest(robot, ms), Observation)
        latest(robot, ms)  # looking twice at one frame does not make it frozen
        flags.append(robot.health(stamp)["front"].frozen)
    assert flags == [False] * 14 + [True] * 6 + [False] * 5


def test_the_rate_is_that_of_the_last_messages_and_decays():
    robot = ObservationAssembler(contract())
    for i in range(100):
        add_state(robot, 100 * i if i < 40 else 4000 + 10 * (i - 40))
    last = 4000 + 590
    health = robot.health(EPOCH + last * MS)["arm"]
    assert health.rate == pytest.approx(100.0)
    assert health.last_receive == EPOCH + last * MS
    assert robot.health(EPOCH + (last + 5000) * MS)["arm"].rate < 10
    assert robot.health(EPOCH)["front"].rate == 0


def test_buffers_are_bounded():
    robot = ObservationAssembler(contract(), image_capacity=3, state_capacity=5)
    for ms in range(50):
        add_image(robot, ms)
        add_state(robot, ms)
    assert isinstance(observe(robot, 47), Observation)
    assert why(observe(robot, 46)) == ("front", "missing")


def test_two_streams_of_one_name_are_refused():
    with pytest.raises(ValueError, match="names that differ"):
        ObservationAssembler(contract(), extra_states=(arm("front"),))


def test_samples_come_in_while_a_picture_is_decoded(monkeypatch):
    decoding, go_on = threading.Event(), threading.Event()
    real = assembler.decode_camera

    def slow(camera, message):
        decoding.set()
        assert go_on.wait(10)
        return real(camera, message)

    monkeypatch.setattr(assembler, "decode_camera", slow)
    robot = ObservationAssembler(contract())
    add_image(robot, 0, 7)
    add_state(robot, 0)
    made = []
    worker = threading.Thread(target=lambda: made.append(latest(robot, 0)))
    worker.start()
    assert decoding.wait(10)
    assert add_image(robot, 10) is None
    assert add_state(robot, 10) is None
    assert robot.health(EPOCH)["front"].received == 2
    go_on.set()
    worker.join(10)
    assert made[0].images["front"].max() == 7
