"""The learning rate over steps and over time."""

import types

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs
from stacked_rnn.training import schedules


@pytest.fixture
def time(monkeypatch):
    """A clock that shows what the test sets as `now`."""
    clock = types.SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(schedules, "time", clock)
    return clock


def test_a_clock_goes_from_the_first_step_to_the_end(time):
    clock = schedules.Clock(2.0)
    time.now += 20  # to compile
    assert clock.share() == 0.0
    clock.start()
    assert clock.share() == 0.0
    time.now += 50
    clock.start()
    assert clock.share() == pytest.approx(0.5)
    clock.validation = 20.0  # 80 seconds are left of it
    assert clock.share() == pytest.approx(50 / 80)
    time.now += 30
    assert clock.share() == 1.0


def test_a_clock_goes_on_where_another_process_stood(time):
    clock = schedules.Clock(2.0, 30.0)
    time.now += 30
    assert clock.share() == 0.25
    clock.start()
    time.now += 30
    assert clock.share() == pytest.approx(0.625)
    time.now += 30
    assert clock.share() == 1.0


def test_a_limit_may_count_from_before_and_leave_time_for_more(time):
    clock = schedules.Clock(2.0, started=time.now - 15, reserve=25.0)
    clock.start()
    time.now += 40  # of 120 - 15 - 25
    assert clock.share() == pytest.approx(0.5)
    time.now += 40
    assert clock.share() == 1.0


def test_a_quarter_of_a_short_limit_is_for_training(time):
    clock = schedules.Clock(1.0, started=time.now - 55, reserve=30.0)
    clock.start()
    time.now += 7.5
    assert clock.share() == pytest.approx(0.5)
    time.now += 7.5
    assert clock.share() == 1.0
    late = schedules.Clock(1.0, started=time.now - 60, least=0.0)
    assert late.share() == 1.0


def test_a_clock_may_be_over_or_endless(time):
    assert schedules.Clock(1.0, 60.0).share() == 1.0
    clock = schedules.Clock(1.0)
    time.now += 61  # within the first step
    assert clock.share() == 1.0
    endless = schedules.Clock(0.0)
    endless.start()
    time.now += 1e9
    assert endless.share() == 0.0


def test_time_walks_through_the_cosine_of_the_steps():
    config = configs.TrainConfig(learning_rate=0.5)
    share = tf.Variable(0.0)
    by_steps = schedules.learning_rate(config, 1000)
    by_time = schedules.learning_rate(config, 0, share)
    for step in (0, 25, 50, 500, 1000):
        share.assign(step / 1000)
        np.testing.assert_allclose(by_time(7), by_steps(step), atol=1e-6)
    assert float(by_time(7)) == pytest.approx(0.005)
    assert float(by_steps(0)) == pytest.approx(0.5 / 51)  # nothing is lost


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("time_share", [None, tf.Variable(0.3)])
def test_half_a_window_has_half_the_rate(schedule, time_share):
    config = configs.TrainConfig(learning_rate_schedule=schedule)
    window_share = tf.Variable(1.0)
    rate = schedules.learning_rate(config, 10, time_share, window_share)
    whole = float(rate(3))
    window_share.assign(0.5)
    assert float(rate(3)) == pytest.approx(0.5 * whole) and whole > 0.001
