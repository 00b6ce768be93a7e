"""Learning-rate schedules, compared with their formulas, torch's schedulers and optax's."""

import inspect
import math
import pickle

import numpy as np
import pytest

import portnet
from portnet import schedules
from portnet.schedules import Constant, CosineDecay, ExponentialDecay, InverseDecay, StepDecay

# The schedule, and its value at a Python int t.
CASES = {
    "constant": (Constant(0.1), lambda t: 0.1),
    "step": (StepDecay(0.1, every=10, factor=0.5), lambda t: 0.1 * 0.5 ** (t // 10)),
    "exponential": (ExponentialDecay(0.1, every=10, factor=0.5), lambda t: 0.1 * 0.5 ** (t / 10)),
    "inverse": (InverseDecay(0.1, steps=10), lambda t: 0.1 / (1 + t / 10)),
    "inverse root": (InverseDecay(0.1, 1, power=0.5), lambda t: 0.1 / math.sqrt(t + 1)),
    "cosine": (
        CosineDecay(0.1, steps=50),
        lambda t: 0.05 * (1 + math.cos(math.pi * min(t, 50) / 50)),
    ),
    "cosine with warm-up": (
        CosineDecay(0.1, steps=50, warmup=9, end=0.02),
        lambda t: (
            0.01 * (t + 1) if t < 9 else 0.02 + 0.04 * (1 + math.cos(math.pi * min(t - 9, 41) / 41))
        ),
    ),
}
STEPS = range(0, 120, 1)


def test_every_public_schedule_is_tested():
    public = {getattr(schedules, name) for name in schedules.__all__}
    assert public == {type(case[0]) for case in CASES.values()}
    assert all(inspect.isclass(c) and getattr(portnet, c.__name__) is c for c in public)


@pytest.mark.parametrize("name", CASES)
def test_schedule_equals_its_formula(name, xp):
    """For a 0-d array as in a step, for a vector, and for Python numbers."""
    schedule, formula = CASES[name]
    expected = [formula(t) for t in STEPS]
    zero = xp.asarray(np.zeros(()))
    for t in (0, 1, 9, 10, 49, 50, 119):
        xp.assert_close(schedule(zero + float(t)), formula(t))
        assert schedule(t) == pytest.approx(formula(t), rel=1e-12)
        assert type(schedule(t)) is float
    xp.assert_close(schedule(xp.asarray(np.array(STEPS, dtype=float))), expected)


@pytest.mark.parametrize("name", CASES)
def test_schedule_of_a_float32_step_is_float32(name, xp):
    t = xp.asarray(np.zeros(()), "float32")
    xp.check_kind(CASES[name][0](t), "float32")


@pytest.mark.parametrize("name", CASES)
def test_schedules_are_hashable_comparable_and_picklable(name):
    schedule = CASES[name][0]
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(pickle.loads(pickle.dumps(schedule))) == hash(schedule)
    optimizer = portnet.Adam(schedule)
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer


def test_schedules_equal_torch_schedulers(torch):
    """The rates of torch's schedulers, read once per step."""
    rates = torch.optim.lr_scheduler
    for schedule, make in [
        (StepDecay(0.1, 7, 0.3), lambda o: rates.StepLR(o, 7, 0.3)),
        (ExponentialDecay(0.1, 1, 0.9), lambda o: rates.ExponentialLR(o, 0.9)),
        (CosineDecay(0.1, 40, end=0.01), lambda o: rates.CosineAnnealingLR(o, 40, 0.01)),
        (InverseDecay(0.1, 5), lambda o: rates.LambdaLR(o, lambda k: 1 / (1 + k / 5))),
        (Constant(0.1), lambda o: rates.ConstantLR(o, factor=1)),
    ]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
        reference = make(optimizer)
        for t in range(40):
            assert schedule(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), schedule
            optimizer.step()
            reference.step()


def test_schedules_equal_optax_schedules():
    optax = pytest.importorskip("optax", reason="optax is not installed")
    for schedule, reference in [
        (Constant(0.1), optax.constant_schedule(0.1)),
        (StepDecay(0.1, 7, 0.3), optax.exponential_decay(0.1, 7, 0.3, staircase=True)),
        (ExponentialDecay(0.1, 7, 0.3), optax.exponential_decay(0.1, 7, 0.3)),
        (CosineDecay(0.1, 40), optax.cosine_decay_schedule(0.1, 40)),
        (
            CosineDecay(0.1, 40, warmup=4, end=0.01),
            optax.warmup_cosine_decay_schedule(0.02, 0.1, 4, 40, end_value=0.01),
        ),
    ]:
        for t in range(60):
            assert schedule(t) == pytest.approx(float(reference(t)), rel=1e-5, abs=1e-9), schedule


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0), "Constant: expected a finite lr > 0, got 0"),
        (lambda: Constant("0.1"), "Constant: expected a finite lr > 0, got '0.1'"),
        (lambda: StepDecay(0.1, 0), "StepDecay: expected a finite every > 0, got 0"),
        (lambda: StepDecay(0.1, 5, 0), "StepDecay: expected 0 < factor <= 1, got 0"),
        (lambda: ExponentialDecay(0.1, 5, 2), "ExponentialDecay: expected 0 < factor <= 1, got 2"),
        (lambda: ExponentialDecay(-0.1, 5), "ExponentialDecay: expected a finite lr > 0, got -0.1"),
        (lambda: ExponentialDecay(0.1, 0), "ExponentialDecay: expected a finite every > 0, got 0"),
        (lambda: StepDecay(0, 5), "StepDecay: expected a finite lr > 0, got 0"),
        (lambda: InverseDecay(0, 5), "InverseDecay: expected a finite lr > 0, got 0"),
        (lambda: CosineDecay(-1, 5), "CosineDecay: expected a finite lr > 0, got -1"),
        (lambda: InverseDecay(0.1, -1), "InverseDecay: expected a finite steps > 0, got -1"),
        (lambda: InverseDecay(0.1, 1, 0), "InverseDecay: expected a finite power > 0, got 0"),
        (
            lambda: CosineDecay(0.1, float("inf")),
            "CosineDecay: expected a finite steps > 0, got inf",
        ),
        (lambda: CosineDecay(0.1, 10, 10), "CosineDecay: expected 0 <= warmup < steps, got 10"),
        (lambda: CosineDecay(0.1, 10, end=1), "CosineDecay: expected 0 <= end <= lr, got 1"),
    ],
)
def test_bad_options_raise_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_default_options_are_those_of_the_documentation():
    assert StepDecay(0.1, 5) == StepDecay(0.1, 5, 0.1)
    assert ExponentialDecay(0.1, 5) == ExponentialDecay(0.1, 5, 0.1)
    assert InverseDecay(0.1, 5) == InverseDecay(0.1, 5, 1.0)
    assert CosineDecay(0.1, 5) == CosineDecay(0.1, 5, 0, 0.0)
