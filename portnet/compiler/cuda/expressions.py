"""Expressions: elementwise operations as C++, as NumPy computes them.

Arithmetic, comparisons and square roots round as IEEE 754 says, so they have the bits of NumPy.
Functions such as exp are the device's own: within 2 units in the last place. Integers wrap around,
which in C++ only those without a sign do.
"""

from typing import Any

import numpy as np

from ..errors import EagerError
from ..ir import Node

__all__ = ["PRELUDE", "TYPES", "expression", "literal", "operand_dtype"]

TYPES = {
    "bool": "bool",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float32": "float",
    "float64": "double",
}

# Of the operands a, b, c in their common type T, and the suffix s of the float functions.
FLOATS = {
    "add": "{a} + {b}",
    "subtract": "{a} - {b}",
    "multiply": "{a} * {b}",
    "divide": "{a} / {b}",
    "negative": "-{a}",
    "positive": "{a}",
    "square": "{a} * {a}",
    "reciprocal": "({T})1 / {a}",
    "abs": "fabs{s}({a})",
    "sign": "sign_of({a})",
    "maximum": "maximum_of({a}, {b})",
    "minimum": "minimum_of({a}, {b})",
    "floor_divide": "floor_divide({a}, {b})",
    "remainder": "remainder_of({a}, {b})",
    "pow": "pow{s}({a}, {b})",
    "logaddexp": "logaddexp({a}, {b})",
    "copysign": "copysign{s}({a}, {b})",
    "hypot": "hypot{s}({a}, {b})",
    "atan2": "atan2{s}({a}, {b})",
    **{
        name: f"{name}{{s}}({{a}})"
        for name in (
            "sqrt exp expm1 log log1p log2 log10 sin cos tan asin acos atan sinh cosh tanh asinh "
            "acosh atanh floor ceil trunc"
        ).split()
    },
}
INTEGERS = {
    "add": "({T})(({U}){a} + ({U}){b})",
    "subtract": "({T})(({U}){a} - ({U}){b})",
    "multiply": "({T})(({U}){a} * ({U}){b})",
    "negative": "({T})(({U})0 - ({U}){a})",
    "positive": "{a}",
    "square": "({T})(({U}){a} * ({U}){a})",
    "abs": "({T})({a} < 0 ? ({U})0 - ({U}){a} : ({U}){a})",
    "sign": "({T})(({a} > 0) - ({a} < 0))",
    "maximum": "({a} > {b} ? {a} : {b})",
    "minimum": "({a} < {b} ? {a} : {b})",
    "bitwise_and": "({T})({a} & {b})",
    "bitwise_or": "({T})({a} | {b})",
    "bitwise_xor": "({T})({a} ^ {b})",
    "bitwise_invert": "({T})(~{a})",
    "floor": "{a}",
    "ceil": "{a}",
    "trunc": "{a}",
}
TESTS = {  # of the operands' type; the result is a bool
    "less": "{a} < {b}",
    "less_equal": "{a} <= {b}",
    "greater": "{a} > {b}",
    "greater_equal": "{a} >= {b}",
    "equal": "{a} == {b}",
    "not_equal": "{a} != {b}",
    "logical_and": "{a} != 0 && {b} != 0",
    "logical_or": "{a} != 0 || {b} != 0",
    "logical_xor": "({a} != 0) != ({b} != 0)",
    "logical_not": "{a} == 0",
    "isnan": "{a} != {a}",
    "isfinite": "{a} - {a} == 0",
    "isinf": "{a} == {a} && {a} - {a} != 0",
}
BOOLS = {
    "bitwise_and": "{a} && {b}",
    "bitwise_or": "{a} || {b}",
    "bitwise_xor": "{a} != {b}",
    "bitwise_invert": "!{a}",
    "add": "{a} || {b}",
    "multiply": "{a} && {b}",
    "maximum": "{a} || {b}",
    "minimum": "{a} && {b}",
}

# Functions that CUDA has not, or has with other special cases than NumPy.
PRELUDE = """
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
template <class T> __device__ __forceinline__ T maximum_of(T a, T b) {
  return a >= b || a != a ? a : b;
}
template <class T> __device__ __forceinline__ T minimum_of(T a, T b) {
  return a <= b || a != a ? a : b;
}
template <class T> __device__ __forceinline__ T sign_of(T a) {
  return a != a ? a : (T)((a > 0) - (a < 0));
}
template <class T> __device__ __forceinline__ T remainder_of(T a, T b) {
  T r = fmod(a, b);
  return r != 0 ? ((b < 0) != (r < 0) ? r + b : r) : copysign((T)0, b);
}
template <class T> __device__ __forceinline__ T floor_divide(T a, T b) {
  if (b == 0) return a / b;
  T r = fmod(a, b), q = (a - r) / b;
  if (r != 0 && (b < 0) != (r < 0)) q -= (T)1;
  if (q == 0) return copysign((T)0, a / b);
  T f = floor(q);
  return q - f > (T)0.5 ? f + (T)1 : f;
}
template <class T> __device__ __forceinline__ T logaddexp(T a, T b) {
  if (a == b) return a + (T)0.693147180559945286;
  T d = a - b;
  return d > 0 ? a + log1p(exp(-d)) : d <= 0 ? b + log1p(exp(d)) : d;
}
"""


def operand_dtype(node: Node) -> Any:
    """Return the dtype in which an operation uses its operands."""
    if node.op not in TESTS:
        return node.dtype
    return np.result_type(*[i.dtype if isinstance(i, Node) else i for i in node.inputs])


def literal(number: Any, dtype: Any) -> str:
    """Return a number as a constant of C++, exactly."""
    if dtype.kind == "b":
        return "true" if number else "false"
    if dtype.kind in "iu":
        bits = int(np.array(number).astype(dtype)) % 2 ** (8 * dtype.itemsize)
        return f"(({TYPES[dtype.name]}){bits}ull)"
    value = float(dtype.type(number))
    suffix = "f" if dtype.name == "float32" else ""
    if value != value:
        return f"(-({TYPES[dtype.name]})(INFINITY - INFINITY))"
    if value in (float("inf"), -float("inf")):
        return f"({'-' if value < 0 else ''}({TYPES[dtype.name]})INFINITY)"
    return f"({value.hex()}{suffix})"


def expression(node: Node, operands: list[str], numbers: list[Any]) -> str:
    """Return an elementwise operation as C++.

    `operands` are C++ in the dtype of `operand_dtype`, but for the condition of `where`, which is a
    bool, and the operand of `astype` and `copy`, in its own; `numbers` has the Python numbers among
    them, and None.
    """
    kind, op = operand_dtype(node), node.op
    if kind.name not in TYPES:
        raise EagerError(f"there is no kernel for {kind}")
    names = dict(zip("abc", operands, strict=False))
    if op == "where":
        return "({a} ? {b} : {c})".format(**names)
    if op in ("astype", "copy"):
        given = node.nodes[0].dtype
        test = node.dtype.kind == "b" and given.kind != "b"
        return f"({names['a']} != 0)" if test else f"({TYPES[node.dtype.name]}){names['a']}"
    if op == "pow" and kind.kind == "f" and len(numbers) > 1 and numbers[1] is not None:
        special = {2: "multiply", 1: "positive", 0.5: "sqrt", -1: "reciprocal"}.get(numbers[1])
        if special:  # as NumPy does
            op, names["b"] = special, names["a"] if special == "multiply" else names["b"]
    # At least 32 bits: shorter numbers would become ints, whose product may overflow.
    unsigned = TYPES[f"uint{max(32, 8 * kind.itemsize)}"] if kind.kind in "iu" else ""
    if op in ("bitwise_left_shift", "bitwise_right_shift") and kind.kind in "iu":
        if numbers[1] is None or not 0 <= numbers[1] < 8 * kind.itemsize:
            raise EagerError(f"there is no kernel for {op} by {numbers[1]}")
        left = f"(({unsigned}){names['a']} << {numbers[1]})"
        right = f"({names['a']} >> {numbers[1]})"
        return f"({TYPES[kind.name]}){left if op == 'bitwise_left_shift' else right}"
    table = TESTS if op in TESTS else {"f": FLOATS, "b": BOOLS}.get(kind.kind, INTEGERS)
    if op not in table or (op in ("isnan", "isfinite", "isinf") and kind.kind != "f"):
        raise EagerError(f"there is no kernel for {op} of {kind}")
    suffix = "f" if kind.name == "float32" else ""
    return "(" + table[op].format(**names, T=TYPES[kind.name], U=unsigned, s=suffix) + ")"
