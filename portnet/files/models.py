"""Models: networks, runs and estimators in files; the package's docstring has the format."""

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import PathLike, fsdecode
from typing import Any

import numpy as np

from .. import tree
from .._typing import Device, Params
from ..backend import FLOATS, Backend, get_backend, use_backend
from . import estimators, tables
from .atomic import write_file
from .container import Container, Packed, open_container, pack
from .description import check_description, parse_description
from .encoding import (
    decode,
    encode,
    known_classes,
    refuse_repeated,
    tensors_of,
    text_array,
)
from .errors import ModelFileError
from .shapes import check_parameters, is_floating

__all__ = [
    "TRAINER",
    "VERSION",
    "check_header",
    "describe",
    "is_checkpoint",
    "load",
    "open_file",
    "read",
    "run_from",
    "save",
    "to_buffers",
]

VERSION = 1  # of the format; larger for what older versions of portnet cannot read
Path = str | PathLike[str]
# Fields of a run that only continuing needs.
STATE = "state", "_last", "_best", "_progress", "step"


def save(thing: Any, path: Path, *, state: bool = False) -> None:
    """Write a network, a run or a fitted estimator to a file: see `portnet.save`."""
    write_file(path, to_buffers(thing, state=state))


def to_buffers(
    thing: Any, *, state: bool, common: Mapping[str, Any] | None = None, progress: Any = None
) -> Packed:
    """Return the parts of the file of a thing.

    A checkpoint has what a resumed fit must have in `common`, as JSON, and what else continuing
    needs, its `progress`. Raises TypeError and ModelFileError for what cannot be written.
    """
    try:
        return _pack(*_described(thing, state, common, progress))
    except RecursionError:
        raise ModelFileError(
            "save: objects are nested too deeply for a file. Nothing was written"
        ) from None


def check_header(thing: Any, common: Mapping[str, Any]) -> None:
    """Raise TypeError or ModelFileError if a checkpoint of a thing has no valid header."""
    tensors, metadata = _described(thing, True, common, None)
    # The data need no room in the header, but their shapes and places do, and later numbers.
    room = " " * (4096 + 80 * len(tensors))
    _check_description(metadata["portnet"] + room, 16 * len(tensors))
    _pack({name: a.reshape(-1)[:0] for name, a in tensors.items()}, metadata | {"room": room})


def _pack(tensors: dict[str, Any], metadata: dict[str, str]) -> Packed:
    try:
        return pack(tensors, metadata)
    except ValueError as error:
        raise ModelFileError(f"save: {error}") from None


def _check_description(text: str, more: int = 0) -> None:
    try:
        check_description(text, more)
    except ValueError as error:
        raise ModelFileError(
            f"save: the description is too large for a file: {error}. Nothing was written"
        ) from None


def _described(
    thing: Any, state: bool, common: Mapping[str, Any] | None, progress: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors and the metadata of the file of a thing."""
    if not isinstance(state, bool):
        raise TypeError(f"state: expected True or False, got {state!r}")
    tensors: dict[str, Any] = {}
    kind, values = _kind_of(thing)
    if kind == "network":
        model, params = values
        tree.leaves(params)  # TypeError for a dict whose keys cannot be sorted
        _check_before(check_parameters, model, params, getattr(model, "n_in", None))
        described = {
            "model": encode(model, "model", tensors),
            "params": encode(params, "layers", tensors),
        }
        _refuse_other_arrays(described["params"], "params")
    elif kind == "run":
        described = _describe_run(values, tensors, state)
    elif kind == "table":
        described = tables.describe(values, tensors, state)
    else:
        described = estimators.describe(values, tensors, state)
    if common is not None:
        described["checkpoint"] = dict(common)
        described["progress"] = encode(progress, "progress", tensors)
    # A fit never writes those of steps that diverged, and resuming takes a checkpoint as it is.
    if common is None and (bad := _not_finite(tensors, {"kind": kind, **described})):
        raise ModelFileError(
            f"save: the tensor {bad!r:.80} has NaN or infinity. Nothing was written, because "
            "portnet.load would refuse it: save parameters of an earlier step, or pickle these"
        )
    text = json.dumps({"kind": kind, **described, **_made()}, allow_nan=False)
    _check_description(text)
    return tensors, {"format_version": str(VERSION), "portnet": text}


def _check_before(check: Callable[..., Any], *args: Any) -> Any:
    """Return check(*args), one of the checks of `load`; its error says that nothing is written."""
    try:
        return check(*args)
    except ModelFileError as error:
        raise ModelFileError(
            f"save: {error}. Nothing was written, because portnet.load would refuse it"
        ) from None


def _kind_of(thing: Any) -> tuple[str, Any]:
    """Return what a thing is: a network, a run, an estimator."""
    if type(thing) is _class("Run"):
        return "run", thing
    if isinstance(thing, tuple) and len(thing) == 2 and hasattr(thing[0], "forward"):
        return "network", thing
    if estimators.is_estimator(thing):
        return "estimator", thing
    if tables.is_table(thing):
        return "table", thing
    raise TypeError(
        "save: expected a run, a fitted MLPClassifier or MLPRegressor, or a network with its "
        f"parameters, (model, params), got {type(thing).__name__}"
    )


def _class(name: str) -> Any:
    """Return Run or Trainer: they save and load, so that this file cannot import them."""
    module = sys.modules[f"{__package__.rpartition('.')[0]}.{name.lower()}"]
    return getattr(module, name)


def _made() -> dict[str, Any]:
    """Return when and with which versions a file is made."""
    from .. import __version__

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    versions = {"portnet": __version__, "python": platform.python_version()}
    return {"made": {"time": now, **versions, "numpy": np.__version__}}


def _refuse_other_arrays(value: Any, name: str) -> None:
    if not tensors_of(value):
        raise TypeError(f"{name}: expected a pytree of arrays, got one without arrays")


# Runs -------------------------------------------------------------------------------------------

TRAINER = "model", "loss", "optimizer", "batch_size", "seed", "shuffle", "compile"
RUN = "inputs", "outputs", "metrics", "feature_names", "epoch", "stopped"
PRIVATE = "_monitors", "_scale", "_one_dimensional"
KINDS: dict[str, Any] = {
    "inputs": int,
    "outputs": int,
    "epoch": int,
    "step": int,
    "stopped": str,
    "metrics": dict,
    "feature_names": tuple | list | None,
    "classes": list | None,
    "history": dict,
    "_monitors": dict,
    "_progress": tuple,
    "_scale": float,
    "_one_dimensional": bool,
}

NUMBER = int | float
COUNTS = {"inputs": 1, "outputs": 1, "epoch": 0, "step": 0}  # the least of each


def _describe_run(run: Any, tensors: dict[str, Any], state: bool) -> dict[str, Any]:
    """Return the description of a run."""
    _check_before(_check_parameters_of, run.trainer.model, vars(run))
    _check_before(
        _classes_of, run.classes if run.classes is None else run.classes.tolist(), run.outputs
    )
    names = {"params": "layers", "state": "optimizer", "_last": "last", "_best": "best"}
    given: dict[str, Any] = {n: getattr(run, n) for n in (*RUN, *PRIVATE)}
    given |= {n: getattr(run, n) for n in STATE} if state else {"stopped": _reason(run.stopped)}
    history = {name: np.array(values) for name, values in run.history.items()}
    _check_before(_check_values, given)
    together = {
        "params": run.params,
        **given,
        "history": history,
        "classes": None if run.classes is None else run.classes.tolist(),
    }
    # In one go: arrays that several fields share are written once.
    parts = {names.get(n, n): value for n, value in together.items()}
    encoded = encode(parts, "", tensors)["dict"]
    described = {n: encoded[names.get(n, n)] for n in together}
    described["trainer"] = encode_trainer(run.trainer, tensors)
    return {"run": described, "backend": run.backend.name, "dtype": run.backend.dtype}


def _reason(stopped: str) -> str:
    """Return why a run ended, without how it continues exactly, which needs its state."""
    return stopped.partition(": run.fit(")[0]


def encode_trainer(trainer: Any, tensors: dict[str, Any]) -> Any:
    """Return the settings of a trainer as JSON."""
    settings = {name: getattr(trainer, name) for name in TRAINER}
    return encode(settings, "trainer", tensors, plain=True)


def run_from(
    described: Mapping[str, Any],
    tensors: dict[str, Any],
    custom: Mapping[str, Any],
    trainer: Any = None,
) -> Any:
    """Return the run of a description, on NumPy; with a trainer that is given, or that in it."""
    Run, Trainer = _class("Run"), _class("Trainer")
    encoded = _dict(described, "run")
    for name in ("params", "state", "_last", "_best"):
        refuse_repeated(encoded.get(name), name)
    skipped = () if trainer is None else ("trainer",)
    values = {n: decode(v, tensors, custom) for n, v in encoded.items() if n not in skipped}
    values.setdefault("trainer", {})
    missing = {"trainer", "params", "history", "classes", *RUN, *PRIVATE} - set(values)
    if missing:
        raise ModelFileError(f"the run has no {sorted(missing)[0]}")
    _check_values(values)
    given = values.pop("trainer")
    trainer = Trainer(**given) if trainer is None else trainer
    with use_backend("numpy", dtype=described["dtype"]) as backend:
        pass
    _check_parameters_of(trainer.model, values)
    history = {name: list(map(float, numbers)) for name, numbers in values.pop("history").items()}
    classes = _classes_of(values.pop("classes"), values["outputs"])
    names = values.pop("feature_names")
    if "state" not in values:
        values["stopped"] = _reason(values["stopped"])
        fresh = trainer.optimizer.init(values["params"])
        values["state"] = None if tree.leaves(fresh) else fresh  # none is needed
    return Run(
        trainer,
        backend=backend,
        classes=classes,
        feature_names=None if names is None else tuple(names),
        _history=history,
        **values,
    )


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise ModelFileError for fields of a run that no fit makes."""

    def check(name: str, fits: bool, expected: str) -> None:
        if name in values and not fits:
            raise ModelFileError(f"{name}: expected {expected}, got {values[name]!r:.80}")

    for name, kind in KINDS.items():
        if name in values:
            check(name, isinstance(values[name], kind), getattr(kind, "__name__", str(kind)))
    for name, least in COUNTS.items():
        number = values.get(name)
        check(name, type(number) is int and least <= number < 1 << 53, f"an integer from {least}")
    check("_scale", 0 <= values["_scale"] <= 1, "a number from 0 to 1")
    check("metrics", all(map(callable, values["metrics"].values())), "functions")
    names = values["feature_names"]
    if names is not None:
        fits = len(names) == values["inputs"] and all(isinstance(n, str) for n in names)
        check("feature_names", fits, f"{values['inputs']} names")
    monitors, progress = values["_monitors"], values.get("_progress", ())
    fits = set(monitors) <= {"early_stopping", "plateau"}
    for monitor in monitors.values():
        fits = fits and _has_kinds(monitor, "MonitorState", (str, NUMBER, int, int))
        fits = fits and min(monitor[2:]) >= 0
    check("_monitors", fits, "states of early_stopping and plateau")
    fits = _has_kinds(progress, "EpochProgress", (NUMBER, NUMBER, str))
    check("_progress", fits, "a sum of losses, a number of steps and a plan")


def _has_kinds(values: Any, name: str, kinds: tuple[Any, ...]) -> bool:
    """Tell whether a named tuple of a class of portnet's has values of such kinds."""
    given: Any = type(values)
    same = given is known_classes()[name]
    return same and all(isinstance(v, kind) for v, kind in zip(values, kinds, strict=True))


def _classes_of(classes: Any, outputs: int) -> Any:
    """Return the classes of a run, or None; raise ModelFileError unless they fit its outputs."""
    if classes is None:
        return None
    array, expected = text_array(classes), 2 if outputs == 1 else outputs
    if len(array) != expected or not (array[:-1] < array[1:]).all():
        raise ModelFileError(f"classes: expected {expected}, sorted, got {classes!r:.80}")
    return array


def _check_parameters_of(model: Any, values: Mapping[str, Any]) -> None:
    """Raise ModelFileError unless the parameters of a run are those of a model."""
    n_out = check_parameters(model, values["params"], values["inputs"])
    if n_out not in (None, values["outputs"]):
        raise ModelFileError(f"expected {values['outputs']} outputs, got {n_out}")
    for name in ("_last", "_best"):
        if values.get(name) is not None:
            check_parameters(model, values[name], values["inputs"], name)


def _dict(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = described.get(name)
    if not isinstance(found, dict):
        raise ModelFileError(f"expected a dict {name!r}, got {found!r:.80}")
    return found


# Reading ----------------------------------------------------------------------------------------


def load(
    path: Path,
    *,
    backend: str | None = None,
    device: Device = None,
    custom: Mapping[str, Any] | None = None,
    allow_nonfinite: bool = False,
) -> Any:
    """Return what was saved: see `portnet.load`."""
    chosen = get_backend()
    name = chosen.name if backend is None else backend
    device = chosen.device if backend is None and device is None else device
    with use_backend(name, device=device):  # an unknown one is an error
        pass
    thing, described = read(path, custom or {}, allow_nonfinite=allow_nonfinite)
    if described["kind"] != "network":
        return thing if name == "numpy" else thing.to(name, device=device)
    model, params = thing
    if name == "numpy":
        return model, params
    with use_backend(name, device=device, dtype=_dtype_of(params)) as to:
        return model, tree.map(lambda a: _moved(a, to), params)


def _dtype_of(params: Params) -> str:
    found = str(next((a.dtype.name for a in tree.leaves(params)), "float32"))
    return found if found in FLOATS else "float32"


def _moved(array: Any, to: Backend) -> Any:
    """Return an array on a backend, bit for bit the same, also of 16 bits."""
    name = array.dtype.name
    if name in FLOATS or not is_floating(array):
        return to.asarray(array, name)
    try:
        dtype = getattr(to.xp, name)
        if to.name == "torch" and name == "bfloat16":  # which NumPy does not have
            moved = to.xp.asarray(array.view(np.int16), device=to.device)
            return moved.view(dtype)
        return to.xp.asarray(array, dtype=dtype, device=to.device)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the {to.name} backend cannot hold {name}: load the file with backend='numpy'"
        ) from error


def read(
    path: Path, custom: Mapping[str, Any], *, allow_nonfinite: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Return what was saved, on NumPy, and its description."""
    try:
        with open_container(path) as container:
            described = describe(container)
            tensors = container.read()  # which are as large as the file
        if not allow_nonfinite and (bad := _not_finite(tensors, described)):
            raise ModelFileError(
                f"the tensor {bad!r:.80} has NaN or infinity: load(..., allow_nonfinite=True) "
                "takes it as it is"
            )
        return _build(described, tensors, custom), described
    except (OSError, MemoryError):  # the file may be whole
        raise
    except ModelFileError as error:
        raise _with_path(error, path) from error
    except Exception as error:
        # The description names portnet's own classes, with values that they refuse. The text of
        # the cause may be that of the file: it is not shown as it is.
        raise ModelFileError(f"{fsdecode(path)}: {type(error).__name__}: {error}") from None


def open_file(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the description in a file of a kind, and its arrays; nothing is made of them."""
    try:
        with open_container(path) as container:
            described = describe(container)
            found = described["kind"]
            if found != kind:
                article = "an" if kind == "estimator" else "a"
                raise ModelFileError(f"expected {article} {kind}, got a file of: {found}")
            return described, container.read()
    except ModelFileError as error:
        raise _with_path(error, path) from error


def is_checkpoint(path: str) -> bool:
    """Tell whether a file is a checkpoint, by its header."""
    with suppress(OSError, ModelFileError), open_container(path) as container:
        return "checkpoint" in describe(container)
    return False


def _with_path(error: ModelFileError, path: Path) -> ModelFileError:
    name = fsdecode(path)
    known = str(error).startswith(str(ModelFileError(name)))  # as it is shown
    return error if known else ModelFileError(f"{name}: {error}")


def describe(container: Container) -> dict[str, Any]:
    """Return the description in a file, as JSON; raise ModelFileError for other versions."""
    version = container.metadata.get("format_version", "")
    if not version.isdecimal() or len(version) > 9 or not 1 <= int(version) <= VERSION:
        raise ModelFileError(
            f"expected format version 1 to {VERSION}, got {version!r:.20}: a newer version of "
            "portnet made it, update portnet"
        )
    described = parse_description(container.metadata.get("portnet", ""))
    unknown = set(container.specs).difference(tensors_of(described))
    kind = described.get("kind") if isinstance(described, dict) else None
    if not isinstance(kind, str) or kind not in BUILDERS:
        raise ModelFileError(
            "its description is not that of a network, a run, an estimator or a table"
        )
    if unknown:
        raise ModelFileError(f"the tensor {min(unknown)!r:.80} belongs to nothing in it")
    found: dict[str, Any] = described
    return found


def _network_from(described: Mapping[str, Any], tensors: Any, custom: Mapping[str, Any]) -> Any:
    model = decode(described.get("model"), tensors, custom)
    refuse_repeated(described.get("params"), "params")
    params = decode(described.get("params"), tensors, custom)
    if not hasattr(model, "forward"):
        raise ModelFileError(f"expected a model, got {type(model).__name__}")
    check_parameters(model, params, getattr(model, "n_in", None))
    return model, params


def _estimator_from(described: Mapping[str, Any], tensors: Any, custom: Mapping[str, Any]) -> Any:
    return estimators.estimator_from(described, tensors, custom)


def _table_from(described: Mapping[str, Any], tensors: Any, custom: Mapping[str, Any]) -> Any:
    return tables.table_from(described, tensors, custom)


BUILDERS = {
    "network": _network_from,
    "run": run_from,
    "estimator": _estimator_from,
    "table": _table_from,
}


def _build(described: dict[str, Any], tensors: dict[str, Any], custom: Mapping[str, Any]) -> Any:
    return BUILDERS[described["kind"]](described, tensors, custom)


# Where the parameters are in a description of each kind.
PARAMETERS: dict[str, list[tuple[str, ...]]] = {
    "network": [("params",)],
    "run": [("run", "params"), ("run", "_last"), ("run", "_best")],
    "estimator": [
        ("fitted", "dict", "coefs_"),
        ("fitted", "dict", "intercepts_"),
        ("progress", "dict", "best"),
    ],
    "table": [
        ("table",),
        ("estimator", "fitted", "dict", "coefs_"),
        ("estimator", "fitted", "dict", "intercepts_"),
    ],
}


def _not_finite(tensors: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Return the name of parameters that are not finite, "" if there are none.

    Other arrays may be what they are: a history has NaN, and an optimizer's state infinity where a
    square overflows.
    """
    for keys in PARAMETERS[described["kind"]]:
        value: Any = described
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        for name in tensors_of(value):
            array = tensors.get(name)
            if array is None or not is_floating(array):
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                if not (np.isfinite(array.sum()) or np.isfinite(array).all()):
                    return name
    return ""
