"""Shapes: those of the parameters of a model, without making them."""

from typing import Any

from ..layers import Chain, Dense, LayerNorm, Residual
from .errors import ModelFileError

__all__ = ["check_parameters", "is_floating"]


def is_floating(array: Any) -> bool:
    """Tell whether an array of any library has floats; NumPy's kind of bfloat16 is another."""
    dtype = getattr(array, "dtype", "")
    return "float" in str(getattr(dtype, "name", dtype))  # NumPy's name has no byte order


def check_parameters(
    model: Any, params: Any, n_in: int | None, where: str = "layers"
) -> int | None:
    """Raise ModelFileError unless arrays have the pytree and the shapes of a model's parameters.

    Arrays may be of any library. Returns the number of outputs for `n_in` inputs; None where a
    layer that is not portnet's own decides it. Such a layer's parameters are not checked.
    """
    kind = type(model)
    if kind is Chain:
        if model.n_in is not None and n_in is not None and model.n_in != n_in:
            raise ModelFileError(f"{where}: expected {model.n_in} inputs, got {n_in}")
        if not isinstance(params, tuple | list) or len(params) != len(model.layers):
            raise ModelFileError(f"{where}: expected parameters of {len(model.layers)} layers")
        n = model.n_in if n_in is None else n_in
        for i, (layer, part) in enumerate(zip(model.layers, params, strict=True)):
            n = check_parameters(layer, part, n, f"{where}.{i}")
        return n
    if kind is Residual:
        n_out = check_parameters(model.layer, params, n_in, where)
        if None not in (n_in, n_out) and n_in != n_out:
            raise ModelFileError(f"{where}: a Residual has {n_in} inputs and {n_out} outputs")
        return n_in
    expected: dict[str, tuple[int | None, ...]] = {}
    n_out = n_in
    if kind is Dense:
        expected, n_out = {"W": (n_in, model.n_out), "b": (1, model.n_out)}, model.n_out
    elif kind is LayerNorm:
        expected = {"gamma": (1, n_in), "beta": (1, n_in)}
    elif kind.__module__ != Dense.__module__:
        return None
    elif params is not None and (not isinstance(params, tuple | list | dict) or params):
        raise ModelFileError(f"{where}: {kind.__name__} has no parameters")
    if expected and (not isinstance(params, dict) or set(params) != set(expected)):
        raise ModelFileError(f"{where}: expected parameters {sorted(expected)}")
    for name, shape in expected.items():
        given = tuple(getattr(params[name], "shape", ()))
        fits = len(given) == len(shape)
        if not fits or any(e not in (None, g) for e, g in zip(shape, given, strict=True)):
            raise ModelFileError(f"{where}.{name}: expected shape {shape}, got {given}")
        if not is_floating(params[name]):
            raise ModelFileError(f"{where}.{name}: expected floats, got {params[name].dtype}")
    return n_out
