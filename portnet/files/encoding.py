"""Encoding: objects as JSON values and named arrays, and back; there is no code in it.

An object of portnet's own is written as the name of its class and its fields. Only the classes
listed in `MODULES` are made from a file, by calling them, so that their own checks apply. What is
somebody else's is named, and the caller of `decode` gives the class or function of that name.

The docstring of the package has the table of what stands for what.
"""

import dataclasses
import functools
import importlib
import inspect
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, ClassVar

import array_api_compat
import numpy as np

from ..backend import to_numpy
from .errors import ModelFileError

__all__ = [
    "decode",
    "encode",
    "has_custom",
    "known_classes",
    "refuse_repeated",
    "tensors_of",
    "text_array",
]

TEXT_LIMIT = 1 << 24  # bytes of an array of text
COUNT_LIMIT = 1 << 19  # texts in it: each takes 60 bytes of memory
HASH_LIMIT = 100  # keys of one hash in a dict
_LONG = 1 << 14  # characters of a list of text that is written as an array: a header has 1 MiB

# The modules whose classes may be made from a file, and which of their classes may not.
MODULES = "layers", "losses", "optimizers", "transforms", "schedules", "lbfgs", "callbacks", "run"
WITH_SKLEARN = "estimators.optimizers", "estimators.solvers"
LEFT_OUT = {"Run", "History", "Report", "Result", "FitState"}
Tensors = dict[str, np.ndarray[Any, Any]]


def known_classes() -> dict[str, type]:
    """Return the classes that may be made from a file, by name."""
    package = __package__.rpartition(".")[0]
    more = WITH_SKLEARN if f"{package}.estimators" in sys.modules else ()
    return _classes_of((*MODULES, *more))


@functools.cache
def _classes_of(modules: tuple[str, ...]) -> dict[str, type]:
    found: dict[str, type] = {}
    for name in modules:
        module = importlib.import_module(f"..{name}", __package__)
        for key, kind in vars(module).items():
            if not inspect.isclass(kind) or kind.__module__ != module.__name__:
                continue
            data = dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
            if data and not key.startswith("_") and key not in LEFT_OUT:
                found[key] = kind
    return found


@functools.cache
def _known_functions() -> dict[str, Callable[..., Any]]:
    from ..metrics import METRICS

    return dict(METRICS)


# Writing ----------------------------------------------------------------------------------------


def encode(value: Any, name: str, tensors: Tensors, *, plain: bool = False) -> Any:
    """Return a value as JSON; its arrays are added to `tensors`, under names that begin with name.

    If `plain`, NumPy's numbers become Python's: in settings they mean the same. Raises TypeError,
    which names the place, for what cannot be written.
    """
    return _Encoder(tensors, plain).encode(value, name)


class _Encoder:
    def __init__(self, tensors: Tensors, plain: bool) -> None:
        self.tensors, self.plain = tensors, plain
        self.custom: dict[str, type] = {}  # classes that are not portnet's own, by name
        self.names: dict[int, str] = {}  # of arrays that are written, by id

    def encode(self, value: Any, name: str) -> Any:
        """Return a value as JSON."""
        if self.plain and isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic) or array_api_compat.is_array_api_obj(value):
            return self._array(value, name)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._object(value, dict(zip(value._fields, value, strict=True)), name)
        if isinstance(value, tuple | list):
            if _is_long_text(value):
                return self._text(value, name)
            parts = [self.encode(v, _join(name, i)) for i, v in enumerate(value)]
            return {"tuple": parts} if isinstance(value, tuple) else parts
        if isinstance(value, dict):
            if all(isinstance(k, str) for k in value):
                return {"dict": {k: self.encode(v, _join(name, k)) for k, v in value.items()}}
            pairs = enumerate(value.items())
            return {
                "items": [
                    [self.encode(k, name), self.encode(v, _join(name, i))] for i, (k, v) in pairs
                ]
            }
        if isinstance(value, functools.partial | MethodType):
            raise TypeError(
                f"{name}: a function with arguments of its own cannot be written, got {value!r}: "
                "make it a frozen dataclass with a method __call__"
            )
        if inspect.isfunction(value) or inspect.isbuiltin(value) or inspect.isclass(value):
            return self._function(value, name)
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
            return self._object(value, fields, name)
        return self._object(value, getattr(value, "__dict__", {}), name)

    def _array(self, value: Any, name: str) -> Any:
        known = self.names.get(id(value))
        # Several parts of a run may share an array: parameters are the best ones, too.
        if known is None or known.partition(".")[0] == name.partition(".")[0]:
            known = name
            while known in self.tensors:
                known += "_"
            self.tensors[known] = np.asarray(
                value if isinstance(value, np.generic) else to_numpy(value)
            )
            self.names[id(value)] = known
        scalar = {"scalar": True} if isinstance(value, np.generic) else {}
        return {"tensor": known, **scalar}

    def _text(self, value: Any, name: str) -> Any:
        joined = "".join([f"{text}\0" for text in value]).encode("utf-8", "surrogatepass")
        if len(value) > COUNT_LIMIT or len(joined) > TEXT_LIMIT:
            raise ModelFileError(
                f"{name}: expected at most {COUNT_LIMIT:,} texts of {TEXT_LIMIT:,} bytes in all, "
                f"got {len(value):,} of {len(joined):,}: give shorter names, or none"
            )
        encoded = {"text": self._array(np.frombuffer(joined, np.uint8), name)}
        return encoded | ({"tuple": True} if isinstance(value, tuple) else {})

    def _object(self, value: Any, fields: Mapping[str, Any], name: str) -> Any:
        kind = type(value)
        ours = known_classes().get(kind.__name__) is kind
        if not ours and self.custom.setdefault(kind.__name__, kind) is not kind:
            raise TypeError(f"{name}: there are two classes named {kind.__name__}: rename one")
        known = hasattr(value, "__dict__") or hasattr(value, "_fields")
        if not known and not dataclasses.is_dataclass(value):
            raise TypeError(
                f"{name}: {kind.__name__} has __slots__, so that its fields are unknown: make it "
                "a dataclass"
            )
        written = {k: self.encode(v, _join(name, k)) for k, v in fields.items()}
        return {"object" if ours else "custom": kind.__name__, "fields": written}

    def _function(self, value: Callable[..., Any], name: str) -> Any:
        if _known_functions().get(value.__name__) is value:
            return {"function": value.__name__}
        if not value.__name__.isidentifier():
            raise TypeError(
                f"{name}: expected what has a name, got {value!r}: whoever loads the file gives it "
                "by its name, custom={...}. Define it with def"
            )
        return {"custom": value.__name__, "fields": None}


def _is_long_text(value: Any) -> bool:
    if not all(isinstance(part, str) for part in value):
        return False
    return sum(map(len, value)) > _LONG and not any("\0" in part for part in value)


def _join(name: str, part: object) -> str:
    return f"{name}.{part}" if name else str(part)


def _inside(where: str, part: object) -> str:
    """Return a place in a file, for messages; all places are alive at once, so keys are cut."""
    return _join(where, part if isinstance(part, int) else f"{part:.40}")


# Reading ----------------------------------------------------------------------------------------


def decode(value: Any, tensors: Tensors, custom: Mapping[str, Any]) -> Any:
    """Return what was encoded; `custom` has what is not portnet's own, by name.

    Raises ModelFileError where something does not fit, and for a name that `custom` does not have.
    """
    try:
        return _Decoder(tensors, custom).decode(value, "")
    except RecursionError:
        raise ModelFileError("objects are nested too deeply") from None


def tensors_of(value: Any) -> list[str]:
    """Return the names of the tensors that a JSON value names, each as often as it does."""
    if isinstance(value, list):
        return [name for part in value for name in tensors_of(part)]
    if not isinstance(value, dict):
        return []
    own = [value["tensor"]] if isinstance(value.get("tensor"), str) else []
    return own + [name for part in value.values() for name in tensors_of(part)]


def has_custom(value: Any) -> bool:
    """Tell whether a JSON value names what is not portnet's own."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, dict) and "custom" in value) or any(map(has_custom, parts))


def refuse_repeated(value: Any, where: str) -> None:
    """Raise ModelFileError where a tensor is named twice: a small file would make a large model."""
    names = tensors_of(value)
    if len(set(names)) < len(names):
        raise ModelFileError(f"{where}: a tensor is named twice")


def text_array(names: Any) -> Any:
    """Return a list of text as an array (names,) of str; ModelFileError for what would be large.

    Each element of such an array has the length of the longest one.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelFileError(f"expected a list of text, got {names!r:.80}")
    if 4 * len(names) * max(map(len, names), default=0) > TEXT_LIMIT:
        raise ModelFileError(
            f"expected shorter names: {len(names)} of up to {max(map(len, names))}"
        )
    return np.array(names, np.str_)


class _Decoder:
    def __init__(self, tensors: Tensors, custom: Mapping[str, Any]) -> None:
        self.tensors, self.custom = tensors, custom

    def decode(self, value: Any, where: str) -> Any:
        """Return what a JSON value stands for."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [self.decode(v, _inside(where, i)) for i, v in enumerate(value)]
        for kind, method in self.KINDS.items():
            if isinstance(value, dict) and kind in value:
                try:
                    return method(self, value, where)
                except (KeyError, AttributeError) as error:
                    raise ModelFileError(f"{where}: not as it is written: {error!r}") from None
        raise ModelFileError(f"{where}: expected a known kind of value, got {str(value)[:80]}")

    def _float(self, value: Any, where: str) -> float:
        if value["float"] not in ("nan", "inf", "-inf"):
            raise ModelFileError(f"{where}: expected nan, inf or -inf, got {value['float']!r:.80}")
        return float(value["float"])

    def _tuple(self, value: Any, where: str) -> Any:
        if not isinstance(value["tuple"], list):
            raise ModelFileError(f"{where}: expected a list, got {value['tuple']!r:.80}")
        return tuple(self.decode(value["tuple"], where))

    def _dict(self, value: Any, where: str) -> Any:
        return {k: self.decode(v, _inside(where, k)) for k, v in value["dict"].items()}

    def _items(self, value: Any, where: str) -> Any:
        try:
            pairs = [
                (self.decode(k, where), self.decode(v, _inside(where, i)))
                for i, (k, v) in enumerate(value["items"])
            ]
            hashes = Counter(hash(k) for k, _ in pairs)
        except ModelFileError:
            raise
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"{where}: expected pairs, got {error}") from None
        # A dict takes quadratic time for such keys, as are the multiples of 2**61 - 1.
        if max(hashes.values(), default=0) > HASH_LIMIT:
            raise ModelFileError(f"{where}: expected keys of different hashes")
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ModelFileError(f"{where}: a key is there twice")
        return found

    def _tensor(self, value: Any, where: str) -> Any:
        name = value["tensor"]
        if not isinstance(name, str) or name not in self.tensors:
            raise ModelFileError(f"{where}: the file has no tensor {name!r:.80}")
        array = self.tensors[name]
        return array[()] if value.get("scalar") is True and array.ndim == 0 else array

    def _text(self, value: Any, where: str) -> Any:
        array = self._tensor(value["text"], where)
        if array.dtype != np.uint8 or array.ndim != 1 or array.size > TEXT_LIMIT:
            raise ModelFileError(f"{where}: expected at most {TEXT_LIMIT:,} bytes of text")
        if np.count_nonzero(array == 0) > COUNT_LIMIT or array[-1:].any():
            raise ModelFileError(f"{where}: expected at most {COUNT_LIMIT:,} texts, each with NUL")
        try:
            texts = array.tobytes().decode("utf-8", "surrogatepass").split("\0")[:-1]
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{where}: expected UTF-8: {error}") from None
        return tuple(texts) if value.get("tuple") is True else texts

    def _function(self, value: Any, where: str) -> Any:
        if value["function"] not in _known_functions():
            raise ModelFileError(f"{where}: there is no function {value['function']!r:.80}")
        return _known_functions()[value["function"]]

    def _object(self, value: Any, where: str) -> Any:
        kind = known_classes().get(value["object"])
        if kind is None:
            raise ModelFileError(
                f"{where}: {value['object']!r:.80} is no class of this version of portnet"
            )
        return self._call(kind, self._fields(value, where), where)

    def _custom(self, value: Any, where: str) -> Any:
        name = value["custom"]
        if name not in self.custom:
            raise ModelFileError(
                f"{where}: {name!r:.80} is not portnet's own. Give its class, or its function: "
                f"portnet.load(path, custom={{{name!r:.80}: ...}})"
            )
        given = self.custom[name]
        if value["fields"] is None or not inspect.isclass(given):
            return given
        fields = self._fields(value, where)
        try:
            return self._call(given, fields, where)
        except ModelFileError as error:
            raise ModelFileError(
                f"{error}. A class is called with the attributes of its object; where it takes "
                f"other arguments, give an object: portnet.load(path, custom={{{name!r:.80}: ...}})"
            ) from error

    def _fields(self, value: Any, where: str) -> dict[str, Any]:
        return {k: self.decode(v, _inside(where, k)) for k, v in value["fields"].items()}

    def _call(self, kind: type, fields: dict[str, Any], where: str) -> Any:
        try:
            return kind(**fields)
        except RecursionError:
            raise
        except Exception as error:  # not its cause, whose text may be that of the file
            raise ModelFileError(f"{where}: {kind.__name__} cannot be made: {error}") from None

    KINDS: ClassVar[dict[str, Callable[..., Any]]] = {
        "float": _float,
        "text": _text,
        "tuple": _tuple,
        "dict": _dict,
        "items": _items,
        "tensor": _tensor,
        "object": _object,
        "function": _function,
        "custom": _custom,
    }
