"""A plan as a text: all that its machine code depends on, so that nothing is found that differs.

The code is made from plans that were read from their texts: if a text left something out, that code
would be another one.
"""

import ast
import os
from pathlib import Path

import numpy as np
import programs as pg
import pytest
from hypothesis import given, settings

import portnet
from portnet import namespace
from portnet.compiler import native_policy, schedule

if native_policy.why_no_machine_code():
    pytest.skip(f"no machine code: {native_policy.why_no_machine_code()}", allow_module_level=True)

from portnet.compiler.native import plan_text as plan_text_module
from portnet.compiler.native.lowering import Lowering
from portnet.compiler.native.plan_text import is_small, plan_of, plan_text
from portnet.compiler.native.scan import PlanCode

EXAMPLES = int(os.environ.get("PORTNET_EXAMPLES", "60"))


@pytest.fixture(autouse=True)
def by_calls(monkeypatch):
    monkeypatch.setenv("PORTNET_NATIVE", "never")


def plan_of_function(fn, *args, donate=()):
    compiled = portnet.compile(fn, donate=donate)
    with np.errstate(all="ignore"):
        compiled(*args)
    return [executable.plan for executable in compiled._entries.values()]


def lowered(plan, row_numbers):
    """Return the functions of a plan, and what their tables hold."""
    lowering = Lowering(plan, row_numbers)
    supported = [lowering.add(step) for step in plan.steps]
    copies = [lowering.add_copy(*copy) for copy in plan.layout.copies]
    lowering.close()
    kept = [PlanCode._kept(Made(plan, lowering), *base) for base in lowering.bases]
    return supported, copies, lowering.functions, kept


class Made:
    def __init__(self, plan, lowering):
        self.plan, self.lowering = plan, lowering


def assert_text_is_the_plan(plan, row_numbers=()):
    text = plan_text(plan, row_numbers)
    read, numbers = plan_of(text)
    assert numbers == list(row_numbers)
    assert plan_text(read, numbers) == text
    assert lowered(read, numbers) == lowered(plan, row_numbers)


@given(pg.programs())
@settings(max_examples=EXAMPLES)
def test_random_programs_are_lowered_alike_from_their_texts(program):
    for plan in plan_of_function(program.function(), *program.inputs(0), donate=program.donate):
        for row_numbers in ((), (0,)):
            assert_text_is_the_plan(plan, row_numbers)


X = np.linspace(-2.0, 2.0, 12).reshape(4, 3)
BY_COLUMNS = np.asfortranarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
SYMMETRIC = np.array([[1.0, 2.0], [2.0, 5.0]])
LARGE = np.arange(60.0).reshape(20, 3)


FUNCTIONS = {
    "numbers": lambda x: x * 2.0 + 3 - namespace(x).where(x > 0, x, -0.0),
    "not finite": lambda x: namespace(x).maximum(x * float("nan"), -float("inf")),
    "small constants": lambda x: x + np.array([0.5, -0.0, 3.0]),
    "a single constant": lambda x: x * np.asarray(np.float32(0.1)),
    "a NaN with a sign": lambda x: namespace(x).copysign(x, -float("nan")),
    "small constants that lie by columns": lambda x: (
        (x @ BY_COLUMNS) @ np.asfortranarray(2.0 * BY_COLUMNS[:2, :2]) @ BY_COLUMNS[:2, :].copy()
    ),
    "the same constant by columns and by rows": lambda x: (
        x[:, :2] @ SYMMETRIC + x[:, 1:] @ np.asfortranarray(SYMMETRIC)
    ),
    "a large constant": lambda x: namespace(x).concat([x, LARGE]) * 2.0,
    "clip": lambda x: namespace(x).clip(x, min=0.0) + 1.0,
    "views": lambda x: x[1:, ::2] * 2.0 + x[:1, 0][None],
    "reductions": lambda x: namespace(x).mean(x, axis=(0, 1)) + namespace(x).max(x, axis=1),
    "a product": lambda x: (x @ x.T) @ (x * 2.0),
}


def test_values_are_kept_only_of_constants_that_lie_row_by_row():
    """The table is filled with a copy of the values, and the code reads it by the strides."""
    (plan,) = plan_of_function(lambda x: (x @ BY_COLUMNS) * np.array([0.5, 3.0]), X)
    kept = lowered(plan, ())[3]
    assert [base[0] for base in kept].count("value") == 1
    assert [base[0] for base in kept].count("constant") == 1


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("donate", [(), (0,)])
def test_functions_are_lowered_alike_from_their_texts(name, donate):
    for plan in plan_of_function(FUNCTIONS[name], X.copy(), donate=donate):
        assert_text_is_the_plan(plan)


def test_blocks_of_groups_are_in_the_text(monkeypatch):
    monkeypatch.setattr(schedule, "BLOCK", 64)
    x = np.ones((200, 20))
    (plan,) = plan_of_function(lambda x: (x * 2.0 + 1.0) * x - 0.5, x)
    assert any(step.rows for step in plan.steps)
    assert lowered(plan, ())[0] == [True]
    assert_text_is_the_plan(plan)


DIFFERENT = {
    "a number": (lambda x: x * 2.0, lambda x: x * 3.0),
    "the sign of zero": (lambda x: x + 0.0, lambda x: x + -0.0),
    "the sign of NaN": (
        lambda x: namespace(x).copysign(x, float("nan")),
        lambda x: namespace(x).copysign(x, -float("nan")),
    ),
    "the type of a number": (lambda x: x * 2, lambda x: x * 2.0),
    "an operation": (lambda x: x * 2.0, lambda x: x / 2.0),
    "an order": (lambda x: x - 2.0, lambda x: 2.0 - x),
    "the values of a constant": (
        lambda x: x * np.array([1.0, 2.0, 3.0]),
        lambda x: x * np.array([1.0, 2.0, 4.0]),
    ),
    "an axis": (lambda x: namespace(x).sum(x * 2.0, axis=0), lambda x: namespace(x).sum(x * 2.0)),
    "a slice": (lambda x: x[1:] * 2.0, lambda x: x[:-1] * 2.0),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_plans_that_differ_have_different_texts(name):
    texts = {plan_text(*plan_of_function(fn, X), ()) for fn in DIFFERENT[name]}
    assert len(texts) == 2


def test_texts_differ_by_shape_dtype_donated_arguments_row_numbers_and_files(monkeypatch):
    fn = lambda x: x * 2.0 + 1.0  # noqa: E731
    (plan,) = plan_of_function(fn, X)
    texts = [plan_text(plan, ()), plan_text(plan, (0,))]
    other = X.astype("float32"), X[:3].copy(), X.reshape(2, 6)
    texts += [plan_text(*plan_of_function(fn, x), ()) for x in other]
    texts.append(plan_text(*plan_of_function(fn, X.copy(), donate=(0,)), ()))
    monkeypatch.setattr(plan_text_module, "_VERSIONS", [])
    texts.append(plan_text(plan, ()))
    assert len(set(texts)) == len(texts)


def test_versions_are_those_of_all_files_that_decide_what_the_code_is():
    """What lowering imports, save the plan itself, and the loader."""
    found = {name for name, _, _ in plan_text_module._VERSIONS}
    assert found == set(plan_text_module._SOURCES)
    folder = Path(plan_text_module.__file__).parents[1]
    for name in found:
        for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level in (1, 2) and node.module:
                given = (folder / name).parents[node.level - 1] / f"{node.module}.py"
                if given.is_relative_to(folder):
                    assert given.relative_to(folder).as_posix() in found | NOT_NEEDED


NOT_NEEDED = {"planner.py", "settings.py", "native/loader.py", "native/object_cache.py"}


def test_text_has_no_large_array():
    constant = np.arange(10_000.0)
    (plan,) = plan_of_function(lambda x: x + constant, np.ones(10_000))
    assert len(plan_text(plan, ())) < 2000
    assert not is_small(constant)


def test_text_is_the_same_for_the_same_function_traced_again():
    first, second = (plan_text(*plan_of_function(FUNCTIONS["views"], X), ()) for _ in range(2))
    assert first == second
    assert all(ast.literal_eval(line) is not None for line in first.split("\n"))
