"""The rules for public docstrings: a description, shapes where there are arrays, an example.

Public are the names of ``portnet.__all__`` and those of each module in MODULES: the classes and
functions in its ``__all__`` or, where it has none, the ones it defines without a leading
underscore. The rules are:

* a docstring, written in the class or function itself; public methods need one, too;
* an example: a section "Examples" with at least one ``>>>`` that the doctests run, so not one
  marked ``+SKIP``. The methods of a class share the example of their class;
* shapes, if arrays are taken or returned. That is so where an annotation names one of ARRAYS, or
  where an argument named in DATA is annotated as Any. A docstring gives shapes where SHAPE matches:
  a tuple with at least one axis of AXES, as ``(rows, n_in)`` or ``(n,)``; "0-d"; "any shape"; or
  "the shape of" something. The shapes of a method may be given in its class.

There are no exceptions.
"""

import ast
import doctest
import functools
import importlib
import inspect
import re
import textwrap
from types import FunctionType

MODULES = (
    "portnet.backend",
    "portnet.data",
    "portnet.estimators",
    "portnet.exchange",
    "portnet.layers",
    "portnet.lbfgs",
    "portnet.losses",
    "portnet.metrics",
    "portnet.optimizers",
    "portnet.plots",
    "portnet.rng",
    "portnet.schedules",
    "portnet.tables",
    "portnet.transforms",
    "portnet.tree",
)
ARRAYS = {"Array", "Host", "Params", "Tree", "ndarray"}
DATA = {"X", "sample_weight", "x", "y"}
AXES = "rows|n|n_in|n_out|classes|labels|outputs|features|columns|height|width"
SHAPE = re.compile(
    rf"(?<!\w)\((?:\d+, ?)*(?:{AXES}),(?: ?(?:{AXES}|\d+),?)*\)"  # (n,)  (rows, 2)  (1, n_out,)
    rf"|(?<!\w)\((?:\d+, ?)+(?:{AXES})\)"  # (1, n_out)
    r"|\b0-d\b|\bany shape\b|\bthe (?:same )?shapes? (?:of|as)\b"
)


def public():
    """Return the public classes and functions by their full names, each of them once."""
    found = {}
    for place in ("portnet", *MODULES):
        module = importlib.import_module(place)
        for name, thing in names_of(module).items():
            if all(thing is not other for other in found.values()):
                found[f"{place}.{name}"] = thing
    return found


def names_of(module):
    """Return the public classes and functions of a module by their names."""
    if hasattr(module, "__all__"):
        named = {name: getattr(module, name) for name in module.__all__}
    else:
        named = {
            name: thing
            for name, thing in vars(module).items()
            if not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__
        }
    return {n: thing for n, thing in named.items() if isinstance(thing, type | FunctionType)}


def faults():
    """Return a line for each rule that a public name, or a public module, breaks."""
    modules = [importlib.import_module(place) for place in ("portnet", *MODULES)]
    found = [f"{m.__name__}: no docstring" for m in modules if not (m.__doc__ or "").strip()]
    for name, thing in public().items():
        found += faults_of(name, thing)
    return found


def faults_of(name, thing):
    """Return a line for each rule that a class or function breaks."""
    node = _parsed(thing)
    doc = ast.get_docstring(node)  # not __doc__, which dataclasses make up
    if not doc:
        return [f"{name}: no docstring"]
    found = []
    if not _examples(doc):
        found.append(f"{name}: no section Examples with a >>> that is run")
    if isinstance(node, ast.FunctionDef):
        if _has_arrays(node) and not _gives_shapes(doc):
            found.append(f"{name}: takes or returns arrays, gives no shapes")
        return found
    if _has_arrays(_fields(node)) and not _gives_shapes(doc):
        found.append(f"{name}: has arrays, gives no shapes")
    for method in _methods(thing):
        where, text = f"{name}.{method.name}", ast.get_docstring(method) or ""
        if not text and not method.name.startswith("__"):
            found.append(f"{where}: no docstring")
        elif _has_arrays(method) and not _gives_shapes(doc, text):
            found.append(f"{where}: takes or returns arrays, it and its class give no shapes")
    return found


@functools.cache
def _parsed(thing):
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def _examples(doc):
    """Return what doctest runs of a docstring's section "Examples"."""
    section = re.split(r"^Examples\n-{8}\n", doc, maxsplit=1, flags=re.MULTILINE)[1:]
    every = doctest.DocTestParser().get_examples("".join(section))
    return [example for example in every if not example.options.get(doctest.SKIP)]


def _gives_shapes(*docs):
    return any(SHAPE.search(re.sub(r"\s+", " ", doc)) for doc in docs)


def _fields(node):
    """Return the annotated fields of a class, as a class."""
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and f.target.id[0] != "_"]
    return ast.ClassDef(node.name, [], [], fields, [])


def _methods(cls):
    """Yield what users call of a class: also what it inherits from classes of its own package."""
    seen = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != cls.__module__.partition(".")[0]:
            continue
        for node in _parsed(base).body:
            if not isinstance(node, ast.FunctionDef) or node.name in seen:
                continue
            seen.add(node.name)
            if node.name in ("__init__", "__call__") or not node.name.startswith("_"):
                yield node


def _has_arrays(node):
    """Tell whether an annotation of a class's fields, or of a function, is that of an array."""
    if isinstance(node, ast.ClassDef):
        return any(_is_array(field.annotation) for field in node.body)
    a = node.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    return _is_array(node.returns) or any(
        _is_array(argument.annotation)
        or (argument.arg in DATA and ast.unparse(argument.annotation or ast.Name("Any")) == "Any")
        for argument in arguments
        if argument is not None
    )


def _is_array(annotation):
    if annotation is None:
        return False
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value)
    nodes = list(ast.walk(annotation))
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    return bool(ARRAYS & (names | {n.attr for n in nodes if isinstance(n, ast.Attribute)}))
