"""What a job takes: break-even between starts and speeds, and when an engine is worth measuring."""

import pytest

from maeast_upstream.config import preset
from maeast_upstream.engines.policy import (
    ENDLESS_SECONDS,
    MEASURING_SECONDS,
    TRIAL_SHARE,
    Cost,
    Plan,
    highest_gain,
    operations,
    usual_start,
)

TORCH, FAST, SMALL = ("torch", "fp32"), ("openvino", "fp32"), ("openvino", "int8")
GAINS = {TORCH: 1.0, FAST: 2.0, SMALL: 4.0}


def plan_of(seconds, costs=(), options=(TORCH, FAST), start=2.0, **more):
    starts = {option: 0.0 if option == TORCH else start for option in options}
    return Plan(list(options), dict(GAINS), starts, seconds, costs=dict(costs), **more)


def test_an_engine_is_taken_from_the_audio_on_that_makes_up_for_its_start():
    costs = {TORCH: Cost(0.0, 0.02), FAST: Cost(2.0, 0.01)}  # even at 200 s
    assert plan_of(199.0, costs).best() == TORCH
    assert plan_of(200.0, costs).best() == TORCH
    assert plan_of(201.0, costs).best() == FAST
    assert plan_of(1.0, costs, running={FAST}).best() == FAST


@pytest.mark.parametrize(("pace", "best"), [(0.01, TORCH), (0.0095, TORCH), (0.009, FAST), (0.02, TORCH)])
def test_what_is_not_clearly_faster_is_not_taken_for_any_job(pace, best):
    assert plan_of(ENDLESS_SECONDS, {TORCH: Cost(0.0, 0.01), FAST: Cost(0.0, pace)}).best() == best


def test_a_lower_precision_is_taken_only_where_it_is_clearly_faster_than_a_more_exact_one():
    costs = {TORCH: Cost(0.0, 0.02), SMALL: Cost(0.0, 0.0095), FAST: Cost(0.0, 0.01)}
    assert plan_of(1e6, costs, (TORCH, FAST, SMALL)).best() == FAST
    costs[SMALL] = Cost(0.0, 0.008)
    assert plan_of(1e6, costs, (TORCH, FAST, SMALL)).best() == SMALL


def test_a_short_job_tries_nothing_and_a_long_one_what_may_save_most():
    pace, cost = 0.01, 2.0 + MEASURING_SECONDS
    even = cost / TRIAL_SHARE / (pace * (1 - 1 / GAINS[FAST]))
    for seconds, expected in ((0.0, None), (0.99 * even, None), (1.01 * even, FAST), (ENDLESS_SECONDS, FAST)):
        assert plan_of(seconds, {TORCH: Cost(0.0, pace)}).worth_trying() == expected
        assert plan_of(seconds).worth_trying(assumed=pace) == expected
        assert plan_of(seconds).may_pay(pace) == (expected is not None)
    assert plan_of(10 * even, {TORCH: Cost(0.0, pace)}, (TORCH, FAST, SMALL)).worth_trying() == SMALL


def test_measuring_costs_at_most_a_sixteenth_of_a_job_that_may_double_its_speed():
    for seconds in range(0, 20000, 50):
        plan = plan_of(float(seconds), {TORCH: Cost(0.0, 0.01)})
        if plan.worth_trying():
            assert plan.starts[FAST] + MEASURING_SECONDS <= 0.0625 * seconds * 0.01


def test_what_cannot_beat_the_best_that_was_measured_is_not_tried():
    costs = {TORCH: Cost(0.0, 0.01), SMALL: Cost(2.0, 0.003)}
    assert plan_of(ENDLESS_SECONDS, costs, (TORCH, FAST, SMALL)).worth_trying() is None
    costs[SMALL] = Cost(2.0, 0.008)
    assert plan_of(ENDLESS_SECONDS, costs, (TORCH, FAST, SMALL)).worth_trying() == FAST


def test_what_is_refused_is_neither_tried_nor_taken():
    costs = {TORCH: Cost(0.0, 0.02), FAST: Cost(0.0, 0.01)}
    assert plan_of(1e6, costs, refused={FAST}).best() == TORCH
    assert plan_of(1e6, {TORCH: Cost(0.0, 0.02)}, refused={FAST}).worth_trying() is None
    assert plan_of(1e6, refused={TORCH}).baseline == FAST


def test_comparing_a_precision_with_float32_counts_as_a_part_of_its_start():
    costs = {TORCH: Cost(0.0, 0.02), SMALL: Cost(1.0, 0.01)}
    without = plan_of(150.0, costs, (TORCH, SMALL))
    assert without.best() == SMALL
    assert plan_of(150.0, costs, (TORCH, SMALL), checked_seconds=30.0).best() == TORCH
    exact = {TORCH: Cost(0.0, 0.02), FAST: Cost(1.0, 0.01)}
    assert plan_of(150.0, exact, checked_seconds=30.0).best() == FAST


def test_a_measured_option_makes_the_baseline_worth_measuring():
    assert not plan_of(1.0, {FAST: Cost(2.0, 0.01)}).may_pay(0.02)
    assert plan_of(1000.0, {FAST: Cost(2.0, 0.01)}).may_pay(0.02)
    assert plan_of(1000.0, {FAST: Cost(2.0, 0.01)}).best() == TORCH


def test_reasons_name_speeds_and_starts():
    assert plan_of(300.0).reason(TORCH) == "too little audio for another engine to pay"
    costs = {TORCH: Cost(0.0, 0.02), FAST: Cost(2.0, 0.01)}
    expected = "too little audio for a start of 2.0 s to pay (openvino fp32 2.00 times)"
    assert plan_of(40.0, costs).reason(TORCH) == expected
    assert plan_of(1e6, costs).reason(FAST) == "2.00 times as fast as torch fp32 here"
    costs[FAST] = Cost(2.0, 0.02)
    assert plan_of(1e6, costs).reason(TORCH) == "nothing here is clearly faster (openvino fp32 1.00 times)"
    assert plan_of(ENDLESS_SECONDS).reason(TORCH) == "nothing else here works"


def test_a_short_job_is_no_reason_where_more_audio_would_change_nothing():
    assert plan_of(300.0, refused={FAST}).reason(TORCH) == "nothing else here works"
    slower = plan_of(300.0, options=(TORCH, ("torch", "bf16")))
    slower.gains[("torch", "bf16")] = 0.5
    assert slower.reason(TORCH) == "nothing here is likely to be faster"


def test_operations_are_two_for_each_weight_and_token():
    assert operations(preset("base"), 12) == 2 * 50 * 12 * 12 * 768**2
    assert operations(preset("base", "frame"), 6) == 2 * 50 * 6 * 12 * 768**2


def test_a_larger_model_takes_longer_to_start_and_torch_no_time():
    assert usual_start("torch", preset("large")) == 0
    assert usual_start("openvino", preset("tiny")) < usual_start("openvino", preset("base"))
    assert usual_start("an engine of next year", preset("tiny")) > 0


def test_precisions_promise_most_where_the_processor_has_instructions_for_them():
    for precision, flag in (
        ("bf16", "avx512_bf16"),
        ("bf16", "amx_bf16"),
        ("int8", "avx512_vnni"),
        ("int8", "asimddp"),
    ):
        native = highest_gain(("openvino", precision), "cpu", {flag})
        assert native > highest_gain(("openvino", precision), "cpu", {"avx2"})
        assert native > highest_gain(("torch", precision), "cpu", {flag})
    assert highest_gain(("torch", "fp32"), "cpu", set()) == highest_gain(("torch", "fp32"), "cuda", set()) == 1
    assert highest_gain(("torch", "bf16"), "cpu", {"avx2"}) < 1 < highest_gain(("torch", "bf16"), "cuda", set())
