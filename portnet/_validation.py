"""What is checked about options, and the messages: names, integers, numbers, objects with methods.

Options are the arguments that are not data: sizes, rates, names. They are checked where an object
is made, so that a mistake is told where it stands and not in the middle of a training.
"""

import difflib
import functools
import importlib.metadata
import inspect
import math
import operator
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any, TypeVar

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

# What other libraries call our losses, metrics and optimizers: the first that is a name fits.
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
# How a layer's forward, a loss and a metric are called, and how to write one.
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
# What other libraries call the options of `fit`, and how it is written here.
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


def how_to_install(extra: str) -> str:
    """Return the command that installs what an extra of portnet needs, from anywhere."""
    try:
        needed = importlib.metadata.requires("portnet") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
        needed = []
    parts = [r.partition(";")[0].strip() for r in needed if re.search(f"extra == .{extra}\\b", r)]
    here = f'pip install ".[{extra}]" in a checkout of portnet'
    return f"""pip install {" ".join(f'"{p}"' for p in parts)} (or {here})""" if parts else here


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside of portnet."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("portnet."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def options_by_name(names: Callable[[], Iterable[str]], example: str) -> Callable[[Any], Any]:
    """Return a decorator of a method (self, X, y, *, ...): TypeErrors say what to write instead.

    Of options that are given by position, and of names that are not among `names()`.
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


def check_choice(kind: str, name: Any, names: Iterable[str]) -> None:
    """Raise ValueError, suggesting the nearest right one, unless `name` is one of `names`."""
    names = list(names)
    if not isinstance(name, str) or name not in names:
        key = name if isinstance(name, str) else getattr(name, "__name__", str(name))
        key = key.rpartition(".")[2].lower()  # of np.float64 or torch.float64: float64
        key_ = key.replace(" ", "_")
        found = OTHER_NAMES.get(key_) or OTHER_NAMES.get(key_.removesuffix("loss").strip("_"), ())
        near = [n for n in found if n in names]
        near = near or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown {kind} {name!r}{hint} The names are {', '.join(names)}")


def resolve(kind: str, given: Any, table: Mapping[str, Callable[[], Any]]) -> Any:
    """Return what a name stands for in the table; what is no name is returned as it is."""
    if not isinstance(given, str):
        return given
    check_choice(kind, given, table)
    return table[given]()


def check_integer(what: str, value: Any, low: int) -> int:
    """Return an option that must be an integer of at least `low`, or raise ValueError."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or found < low:
        raise ValueError(f"{what}: expected an integer of at least {low}, got {value!r}")
    return found


def check_number(owner: Any, name: str, needed: str, fits: Callable[[float], bool]) -> None:
    """Check a number of a frozen dataclass and keep it as a Python float, or raise ValueError.

    As a float: NumPy's float64 scalars turn every float32 array that they meet into float64.
    """
    value = getattr(owner, name)
    try:
        found = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or not fits(found):
        raise ValueError(f"{type(owner).__name__}: expected {needed}, got {value!r}")
    object.__setattr__(owner, name, found)


def check_decay(owner: Any) -> None:
    """Check the options of what makes parameters decay: `decay`, and `only` those of a name."""
    check_number(owner, "decay", "a finite decay >= 0", lambda d: 0 <= d < math.inf)
    if not isinstance(owner.only, str | None):
        name = type(owner).__name__
        raise TypeError(f"{name}: only is the name of parameters, such as 'W', got {owner.only!r}")


def decays(owner: Any, paths: list[str]) -> list[bool]:
    """Tell for the path of each parameter whether it decays; ValueError where `only` names none."""
    each = [owner.only is None or path.endswith(f"[{owner.only!r}]") for path in paths]
    if each and not any(each):
        name = type(owner).__name__
        raise ValueError(
            f"{name}: no parameter is named {owner.only!r}; there are {', '.join(paths)}"
        )
    return each


def name_of(x: Any) -> str:
    """Return the repr of an object for messages; the name of its class where it has none."""
    text = repr(x)
    return type(x).__name__ if text.startswith("<") and " object at 0x" in text else text


def check_pair(owner: Any, method: str, needed: str, answer: Any, index: int | None = None) -> Any:
    """Return what a method returned if that is a pair, or raise TypeError that names its owner.

    `index` is that of a layer in its Chain.
    """
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        given = f"{len(answer)} values" if isinstance(answer, tuple | list) else _kind_of(answer)
        where = "" if index is None else f"layers[{index}] "
        raise TypeError(
            f"{where}{name_of(owner)}: expected {method} to return {needed}, got {given}"
        )
    return answer


def check_signature(what: str, function: Any, names: tuple[str, ...], example: str) -> None:
    """Raise TypeError unless a function can be called with arguments of these names, in order."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function in C
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise TypeError(
            f"{what} is called with ({', '.join(names)}), got one that takes {signature}: write "
            f"{example}"
        ) from None


def sizes_in_a_list(make: _Function) -> _Function:
    """Decorate a function of a list of sizes: sizes one by one are an error that says so."""

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


def refuse_unknown(owner: str, options: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise TypeError for an option of another library's, or of another function: what to write."""
    for name in options:
        if name not in names:
            where = OPTIONS_ELSEWHERE.get(name, "")
            if where.startswith(owner):
                where = where.partition("..., ")[2].removesuffix(")")
            elif where and "(" not in where.partition("=")[0]:  # an option of fit
                where = f"fit(X, y, {where})"
            raise TypeError(f"{owner}: unknown option {name!r}" + f": write {where}" * bool(where))


def _kind_of(x: Any) -> str:
    shape = getattr(x, "shape", None)
    return f"a {type(x).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def check_methods(what: str, given: Any, names: tuple[str, ...]) -> None:
    """Raise TypeError unless an object (and not its class) has these methods."""
    if isinstance(given, type) or not all(hasattr(given, name) for name in names):
        hint = ": write it with ()" if isinstance(given, type) else ""
        raise TypeError(f"expected {what} with {', '.join(names)}, got {given!r}{hint}")
