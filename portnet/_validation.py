"""Checks of options, and their error messages: names, integers, numbers, methods.

Options are the arguments that are not data: sizes, rates, names. They are checked when an object
is constructed, so that errors are raised there and not during training.
"""

import difflib
import functools
import inspect
import math
import operator
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any, SupportsIndex, TypeVar

__all__ = [
    "FORWARD_CALL",
    "LOSS_CALL",
    "METRIC_CALL",
    "OPTIONS_ELSEWHERE",
    "check_choice",
    "check_decay",
    "check_integer",
    "check_methods",
    "check_number",
    "check_pair",
    "check_signature",
    "counted",
    "decays",
    "how_to_install",
    "name_of",
    "options_by_name",
    "refuse_unknown",
    "resolve",
    "sizes_in_a_list",
    "warn",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_T = TypeVar("_T")

# Losses, metrics and optimizers by their names in other libraries: suggestions in errors.
OTHER_NAMES = {
    **dict.fromkeys(("mse", "l2", "mean_squared_error"), ("squared_error", "mean_squared_error")),
    **dict.fromkeys(
        ("mae", "l1", "mean_absolute_error"), ("absolute_error", "mean_absolute_error")
    ),
    **dict.fromkeys(("huber_loss", "smooth_l1"), ("huber",)),
    **dict.fromkeys(
        ("bce", "bcewithlogits", "binary_crossentropy", "binary_cross_entropy", "logistic"),
        ("sigmoid_cross_entropy", "log_loss"),
    ),
    **dict.fromkeys(
        (
            "cross_entropy",
            "crossentropy",
            "categorical_crossentropy",
            "sparse_categorical_crossentropy",
            "log_loss",
            "logloss",
            "nll",
        ),
        ("softmax_cross_entropy", "log_loss"),
    ),
    "poisson_nll": ("poisson",),
    "acc": ("accuracy",),
    "r2_score": ("r2",),
    "gradient_descent": ("sgd",),
    "l-bfgs": ("lbfgs",),
}
# The arguments of a layer's forward, a loss and a metric, and how to write one.
FORWARD_CALL = (
    ("params", "x", "key"),
    "def forward(self, params, x, key=None), and return y, cache",
)
LOSS_CALL = (
    ("pred", "target", "weight"),
    "def loss(pred, target, weight=None), and return value, dpred",
)
METRIC_CALL = (
    ("mean", "target", "weight"),
    "def metric(mean, target, weight=None), and return a number",
)
# Options of `fit` in other libraries, and how to write them here.
OPTIONS_ELSEWHERE = {
    "validation_split": "validation=0.1",
    "validation_fraction": "validation=0.1",
    "validation_data": "validation=(X, y)",
    "eval_set": "validation=(X, y)",
    "n_epochs": "epochs=10",
    "max_iter": "epochs=10",
    "batch_size": "Trainer(..., batch_size=32)",
    "shuffle": "Trainer(..., shuffle=False)",
    "seed": "Trainer(..., seed=0)",
    "optimizer": "Trainer(..., optimizer=portnet.Adam(1e-3))",
    "lr": "Trainer(..., optimizer=portnet.Adam(1e-3))",
    "learning_rate": "Trainer(..., optimizer=portnet.Adam(1e-3))",
    "epochs": "fit(X, y, epochs=10)",
    "metrics": 'fit(X, y, metrics=["accuracy"])',
    "callbacks": "fit(X, y, callbacks=[...])",
    "verbose": "fit(X, y, verbose=True)",
    "validation": "fit(X, y, validation=0.1)",
    "dtype": 'portnet.set_backend("numpy", dtype="float64")',
    "device": 'portnet.set_backend("cupy", device="cuda:0")',
}


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 row", "2,000 rows"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def how_to_install(extra: str) -> str:
    """Return the pip command that installs the dependencies of an extra of portnet."""
    from importlib import metadata  # which takes 0.01 s

    try:
        lines = metadata.requires("portnet") or []
    except metadata.PackageNotFoundError:  # run from a checkout, not installed
        lines = []
    needed = [r.partition(";")[0].strip() for r in lines if re.search(f"extra == .{extra}\\b", r)]
    local = f'pip install ".[{extra}]" in a checkout of portnet'
    return f"""pip install {" ".join(f'"{r}"' for r in needed)} (or {local})""" if needed else local


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the line outside portnet that called it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("portnet."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def options_by_name(
    names: Callable[[], Iterable[str]], example: str
) -> Callable[[_Function], _Function]:
    """Return a decorator of methods (self, X, y, *, ...): TypeErrors suggest what to write.

    They are raised for options given by position, and for options not in `names()`.
    """

    def decorate(method: _Function) -> _Function:
        @functools.wraps(method)
        def checked(self: Any, *data: Any, **options: Any) -> Any:
            if len(data) > 2:
                raise TypeError(
                    f"{method.__name__}: expected X, y and options by name, got {data[2]!r} as a "
                    f"third argument: write {method.__name__}(X, y, {example})"
                )
            known = ("X", "y", *names())
            for name in options:
                if name in OPTIONS_ELSEWHERE and name not in known:
                    raise TypeError(
                        f"{method.__name__}: unknown option {name!r}: write "
                        f"{OPTIONS_ELSEWHERE[name]}"
                    )
                try:
                    check_choice("option", name, known)
                except ValueError as error:
                    raise TypeError(f"{method.__name__}: {error}") from None
            return method(self, *data, **options)

        return checked  # type: ignore[return-value]

    return decorate


def check_choice(kind: str, name: object, names: Iterable[str]) -> None:
    """Raise ValueError unless `name` is one of `names`; the message suggests the closest one."""
    names = list(names)
    if not isinstance(name, str) or name not in names:
        key = name if isinstance(name, str) else getattr(name, "__name__", str(name))
        key = key.rpartition(".")[2].lower()  # float64 of np.float64 or torch.float64
        key_ = key.replace(" ", "_")
        ours = OTHER_NAMES.get(key_) or OTHER_NAMES.get(key_.removesuffix("loss").strip("_"), ())
        matches = [n for n in ours if n in names]
        matches = matches or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f": did you mean {matches[0]!r}?" if matches else "."
        raise ValueError(f"unknown {kind} {name!r}{hint} The names are {', '.join(names)}")


def resolve(kind: str, given: str | _T, table: Mapping[str, Callable[[], _T]]) -> _T:
    """Return a new object by its name in `table`; return anything but a string unchanged."""
    if not isinstance(given, str):
        return given
    check_choice(kind, given, table)
    return table[given]()


def check_integer(what: str, value: SupportsIndex, low: int) -> int:
    """Return an option as an int, or raise ValueError unless it is an integer >= low."""
    try:
        result = operator.index(value)
    except TypeError:
        result = None
    if result is None or isinstance(value, bool) or result < low:
        raise ValueError(f"{what}: expected an integer of at least {low}, got {value!r}")
    return result


def check_number(owner: object, name: str, expected: str, valid: Callable[[float], bool]) -> None:
    """Convert a field of a frozen dataclass to a float, or raise ValueError unless it is valid.

    A Python float, because NumPy's float64 scalars promote float32 arrays to float64.
    """
    value = getattr(owner, name)
    try:
        result = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = None
    if result is None or not valid(result):
        raise ValueError(f"{type(owner).__name__}: expected {expected}, got {value!r}")
    object.__setattr__(owner, name, result)


def check_decay(owner: Any) -> None:
    """Check the options of weight decay: `decay`, and `only`, a name of parameters or None."""
    check_number(owner, "decay", "a finite decay >= 0", lambda d: 0 <= d < math.inf)
    if not isinstance(owner.only, str | None):
        raise TypeError(
            f"{type(owner).__name__}: expected only as a name of parameters, such as 'W', got "
            f"{owner.only!r}"
        )


def decays(owner: Any, paths: list[str]) -> list[bool]:
    """Return whether each parameter decays; raise ValueError if no parameter is named `only`."""
    result = [owner.only is None or path.endswith(f"[{owner.only!r}]") for path in paths]
    if result and not any(result):
        raise ValueError(
            f"{type(owner).__name__}: no parameter is named {owner.only!r}; there are "
            f"{', '.join(paths)}"
        )
    return result


def name_of(x: object) -> str:
    """Return the repr of an object for messages, or its class name if the repr is the default."""
    text = repr(x)
    return type(x).__name__ if text.startswith("<") and " object at 0x" in text else text


def check_pair(
    owner: object, method: str, expected: str, result: _T, index: int | None = None
) -> _T:
    """Return the result of a method of `owner`, or raise TypeError unless it is a pair.

    `index` is the position of a layer in its Chain.
    """
    if not isinstance(result, tuple | list) or len(result) != 2:
        given = f"{len(result)} values" if isinstance(result, tuple | list) else _describe(result)
        where = "" if index is None else f"layers[{index}] "
        raise TypeError(
            f"{where}{name_of(owner)}: expected {method} to return {expected}, got {given}"
        )
    return result


def check_signature(what: str, function: Any, names: tuple[str, ...], example: str) -> None:
    """Raise TypeError unless a function takes as many positional arguments as there are names."""
    own = getattr(function, "__func__", function)  # of a method, which has self before the names
    if not _takes(own, len(names) + (own is not function)):
        signature = inspect.signature(function)
        raise TypeError(
            f"{what} is called with ({', '.join(names)}), got one that takes {signature}: write "
            f"{example}"
        )


@functools.lru_cache(maxsize=256)  # a signature takes longer than a step of a small network
def _takes(function: Callable[..., object], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a function in C without a signature
        return True
    return True


def sizes_in_a_list(make: _Function) -> _Function:
    """Decorate a function of a list of sizes: separate sizes raise TypeError."""

    @functools.wraps(make)
    def checked(*args: Any, **options: Any) -> Any:
        if args and isinstance(args[0], Integral):
            sizes = [int(a) for a in args if isinstance(a, Integral)]
            raise TypeError(
                f"{make.__name__}: expected a list of sizes, inputs first and outputs last, such "
                f"as {make.__name__}({sizes if len(sizes) > 1 else [*sizes, 8, 2]}), got "
                f"{make.__name__}({', '.join(map(repr, args))})"
            )
        return make(*args, **options)

    return checked  # type: ignore[return-value]


def refuse_unknown(owner: str, options: Mapping[str, object], names: Iterable[str]) -> None:
    """Raise TypeError for options not in `names`; the message says what to write instead."""
    for name in options:
        if name not in names:
            where = OPTIONS_ELSEWHERE.get(name, "")
            if where.startswith(owner):
                where = where.partition("..., ")[2].removesuffix(")")
            elif where and "(" not in where.partition("=")[0]:  # an option of fit
                where = f"fit(X, y, {where})"
            raise TypeError(f"{owner}: unknown option {name!r}" + f": write {where}" * bool(where))


def _describe(x: object) -> str:
    shape = getattr(x, "shape", None)
    return f"a {type(x).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def check_methods(what: str, given: object, names: tuple[str, ...]) -> None:
    """Raise TypeError unless `given` is an object, not a class, with these methods."""
    if isinstance(given, type) or not all(hasattr(given, name) for name in names):
        hint = ": write it with ()" if isinstance(given, type) else ""
        raise TypeError(f"expected {what} with {', '.join(names)}, got {given!r}{hint}")
