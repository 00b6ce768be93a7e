"""The quantities of a training step: their names, and their formulas from the docstrings.

The names are those of notebooks: z1 = x @ W1 + b1 is the output of the first Dense, a1 that of its
activation; y_k is the output of any other layer, the k-th one. What a layer keeps for its backward
pass has the name that it has there, such as mask_k. dz1, dW1 are the gradients of the loss with
respect to z1, W1. A Residual, y_k = p + f(p), adds two gradients: dp = dy_k + dp_f, of which dp_f
is that through f. mW1, vW1 are running means of an optimizer, uW1 is the update of W1, and
W1_new = W1 + uW1.
"""

import re
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any

from . import tree
from ._typing import Array, Params, Tree
from ._validation import name_of
from .layers import ACTIVATIONS, GELU, Dense, Dropout, LayerNorm, Residual, SiLU
from .optimizers import Adam, one_minus_power
from .recording import Record, UpdateRecord

__all__ = ["Names", "Quantity", "of_loss", "of_updates"]

# What layers keep for their backward pass; layers of a user may have a dict with names.
KEPT = {GELU: ("x", "h"), SiLU: ("x", "s"), Dropout: ("mask",), LayerNorm: ("x_hat", "r")}
SOURCE = 40  # characters of a layer's repr


@dataclass(frozen=True, eq=False)
class Quantity:
    """A quantity of a training step.

    Attributes
    ----------
    name : str
        Such as "dW1".
    formula : str
        How it is computed, such as "dW1 = x.T @ dz1".
    value : array
        Of any shape, in the library of the parameters.
    part : str
        "given", "forward", "loss", "backward", "update" or "new parameters".
    source : str
        What computed it, such as "layers[0] Dense(8)".

    Examples
    --------
    >>> import numpy as np
    >>> from portnet.step_formulas import Quantity
    >>> Quantity("a1", "a1 = tanh(z1)", np.zeros((4, 2)), "forward", "layers[1] Tanh()").shape
    (4, 2)
    """

    name: str
    formula: str
    value: Array
    part: str
    source: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(self.value.shape)


class Names:
    """The names and formulas of the quantities of layers.

    Parameters
    ----------
    records : list of Record
        Those of a forward and a backward pass, also of the layers inside a Residual.

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> from portnet.recording import recorded
    >>> model, records = recorded(portnet.mlp([2, 3, 1]))
    >>> x = np.ones((5, 2))
    >>> y, cache = model.forward(portnet.init(model, 2, like=x), x)
    >>> names = Names(records)
    >>> [quantity.formula for quantity in names.forward()], names.last
    (['z1 = x @ W1 + b1', 'a1 = max(z1, 0)', 'z2 = a1 @ W2 + b2'], 'z2')
    """

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.inputs, self.outputs = list[str](), list[str]()
        self.params = list[list[str]]()  # of each layer
        self.kept = list[dict[str, str]]()  # of each layer: the names of what it keeps
        self.first = list[int]()  # of each layer: the first one inside it, or itself
        self.d_inputs = list[str]()  # of each layer: the gradient that its backward pass returns
        taken, k, self.last = set[str](), 0, "x"
        elementwise = tuple({type(layer) for layer in ACTIVATIONS.values()})
        for i, record in enumerate(records):
            number, output = f"_{i + 1}", f"y_{i + 1}"
            if isinstance(record.layer, Dense):
                k += 1
                number, output = str(k), f"z{k}"
            elif k and f"a{k}" not in taken and isinstance(record.layer, elementwise):
                output = f"a{k}"
            taken.add(output)
            residual = type(record.layer) is Residual
            first = i
            while residual and first and _is_inside(records[first - 1].path, record.path):
                first -= 1
            self.first.append(first)
            keys = [] if residual else _keys(record.params)
            self.params.append([key + number + rest for key, rest in keys])
            self.kept.append({key: key + number for key in _kept(record)})
            self.inputs.append(self.last if first == i else self.inputs[first])
            self.outputs.append(output)
            self.last = output
        for i, name in enumerate(self.inputs):
            around = [
                k
                for k in range(i + 1, len(records))
                if self.first[k] == self.first[i] and self.inputs[k] == name
            ]  # the Residuals of the same input
            self.d_inputs.append(_through_f(f"d{name}", len(around)))

    def source(self, i: int) -> str:
        """Return where layer i is, and what it is."""
        record = self.records[i]
        name = "Residual" if type(record.layer) is Residual else name_of(record.layer)
        name = " ".join(name.split())
        short = name if len(name) <= SOURCE else name[: SOURCE - 3] + "..."
        return f"{record.path} {short}".strip()

    @property
    def of_all_params(self) -> list[str]:
        """The names of all parameters, in the order of their pytree."""
        return [name for names in self.params for name in names]

    def of_params(self) -> list[Quantity]:
        """Return the parameters that are given."""
        return [
            Quantity(name, f"{name}: parameters", value, "given", self.source(i))
            for i, names in enumerate(self.params)
            if names
            for name, value in zip(names, tree.leaves(self.records[i].params), strict=True)
        ]

    def _substituted(self, i: int, text: str) -> str:
        """Return an equation of layer i with the names of its quantities."""
        layer = self.records[i].layer
        pairs = zip(_keys(self.records[i].params), self.params[i], strict=False)
        names = self.kept[i] | {key: name for (key, rest), name in pairs if not rest}
        names |= {"x": self.inputs[i], "y": self.outputs[i]}
        names |= {"dx": self.d_inputs[i], "dy": f"d{self.outputs[i]}"}
        names |= {f"d{key}": f"d{name}" for key, name in names.items() if key[0] not in "dxy"}
        if type(layer) is Residual:
            inside = self.first[i] < i
            names["f(x)"] = self._f(i)
            names["the dx of f"] = _through_f(names["dx"], 1) if inside else names["dy"]
        return _renamed(text, names)

    def _f(self, i: int) -> str:
        """Return the name of f(x) of Residual i."""
        return self.outputs[i - 1] if self.first[i] < i else self.inputs[i]

    def forward(self) -> list[Quantity]:
        """Return what the layers keep, and their outputs."""
        found = []
        for i, record in enumerate(self.records):
            source, layer = self.source(i), record.layer
            for (key, name), value in zip(
                self.kept[i].items(), _kept(record).values(), strict=True
            ):
                equation = _defined(key, layer, whole=True)
                formula = f"{name}: what {type(layer).__name__} keeps for backward"
                if equation:
                    formula = self._substituted(i, f"{key} = {equation}")
                found.append(Quantity(name, formula, value, "forward", source))
            equation = _after(r"^y = ", _equations(layer))
            if isinstance(layer, Dropout) and not self.kept[i]:
                equation = "x"  # nothing is dropped
            formula = f"{self.outputs[i]} = {type(layer).__name__}"
            formula += f"({', '.join([self.inputs[i], *self.params[i]])})"
            for key in self.kept[i]:  # is a quantity of its own
                equation = re.sub(rf", {key} = .*", "", equation)
            if equation:
                formula = self._substituted(i, f"y = {equation}")
            found.append(Quantity(self.outputs[i], formula, record.y, "forward", source))
        return found

    def backward(self) -> list[Quantity]:
        """Return the gradients that the layers compute: of their parameters, and their inputs."""
        found, sums = [], list[int]()  # sums: the Residuals whose inner layers are under way
        for i in reversed(range(len(self.records))):
            if type(self.records[i].layer) is Residual:
                found += self._into(i)
                sums.append(i)
            else:
                found += self._gradients(i)
            while sums and self.first[sums[-1]] == i:
                found += self._d_input(sums.pop())
        return found

    def _into(self, i: int) -> list[Quantity]:
        """Return the gradient of f(x) of Residual i: that of its output."""
        if self.first[i] == i:
            return []
        name, output = f"d{self._f(i)}", f"d{self.outputs[i]}"
        return [
            Quantity(name, f"{name} = {output}", self.records[i].dy, "backward", self.source(i))
        ]

    def _gradients(self, i: int) -> list[Quantity]:
        record, source = self.records[i], self.source(i)
        by_layer = f"from {type(record.layer).__name__}.backward(d{self.outputs[i]})"
        found = []
        keys = [key for key, rest in _keys(record.params)]
        values = tree.leaves(record.dparams)
        for key, name, value in zip(keys, self.params[i], values, strict=True):
            equation = _defined(f"d{key}", record.layer)
            formula = self._substituted(i, equation) if equation else by_layer
            found.append(Quantity(f"d{name}", f"d{name} = {formula}", value, "backward", source))
        return found + self._d_input(i)

    def _d_input(self, i: int) -> list[Quantity]:
        """Return the gradient of the input of layer i, if something needs it."""
        if self.inputs[i] == "x":
            return []
        record, output, name = self.records[i], self.outputs[i], self.d_inputs[i]
        derivative = _after(r"(?:\by'|dy/dx) = ", _equations(record.layer))
        dx = _defined("dx", record.layer)
        if isinstance(record.layer, Dropout) and not self.kept[i]:
            dx = "dy"
        formula = f"from {type(record.layer).__name__}.backward(d{output})"
        if derivative:
            of_y = self._substituted(i, derivative)
            formula = f"d{output} {output}',  {output}' = {of_y}"
        elif dx:
            formula = self._substituted(i, dx + _definitions(dx, record.layer, self.kept[i]))
        return [Quantity(name, f"{name} = {formula}", record.dx, "backward", self.source(i))]


def of_updates(
    names: list[str], params: Params, parts: list[UpdateRecord], new: Params
) -> list[Quantity]:
    """Return what the parts of an optimizer compute for each parameter, and the new parameters.

    Parameters
    ----------
    names : list of str
        Those of the parameters.
    params, new : pytrees of arrays
        The parameters before and after the step.
    parts : list of UpdateRecord

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> from portnet.recording import recorded_optimizer
    >>> copy, parts = recorded_optimizer(portnet.Momentum(0.5))
    >>> p = np.zeros(2)
    >>> updates, state = copy.update(np.array([3.0, 4.0]), copy.init(p), p)
    >>> for quantity in of_updates(["W1"], p, parts, p + updates):
    ...     print(quantity.formula)
    vW1 <- beta vW1 + dW1
    uW1 = -lr vW1
    W1_new = W1 + uW1
    """
    found, gradients = list[Quantity](), [f"d{name}" for name in names]
    texts = [_equations(record.part) for record in parts]
    steps = [_clause(r"\bu = ", text) for text in texts]
    before = [number for number, step in enumerate(steps[:-1]) if not step]
    for number, (record, step) in enumerate(zip(parts, steps, strict=True)):
        part, source, kept = record.part, name_of(record.part), _state(record, params)
        symbol = "u" if number == len(parts) - 1 else f"u_{number + 1}_"
        if number in before:
            symbol = "g" if len(before) == 1 else f"g_{number + 1}_"
        change = step or _after(r"^g <- ", texts[number]).partition(": ")[0]
        if isinstance(part, Adam) and names:
            formula = "t <- t + 1: the number of this step"
            found.append(Quantity("t", formula, record.state.t, "update", source))
        outputs = [f"{symbol}{name}" for name in names]
        for i, (name, value) in enumerate(zip(names, tree.leaves(record.updates), strict=True)):
            own = {key: f"{key}{name}" for key in kept}
            own |= {"g": gradients[i], "param": name, "p": name, "u": outputs[i]}
            own |= {"|g|": "|g|", "g_i": "g_i"}  # of all parameters
            for key, values in kept.items():
                equation = _of_state(key, part)
                formula = f"{own[key]}: {key} of {type(part).__name__} after the step"
                if equation:
                    formula = _renamed(equation, own)
                found.append(Quantity(own[key], formula, values[i], "update", source))
            formula = f"{outputs[i]} = {type(part).__name__}.update of {gradients[i]}"
            if change:
                formula = f"{outputs[i]} = {_renamed(change, own)}"
            found.append(Quantity(outputs[i], formula, value, "update", source))
        gradients = outputs
    for name, value in zip(names, tree.leaves(new), strict=True):
        formula = f"{name}_new = {name} + u{name}"
        found.append(Quantity(f"{name}_new", formula, value, "new parameters"))
    return found


def _state(record: UpdateRecord, params: Params) -> dict[str, list[Array]]:
    """Return what an optimizer keeps for each parameter, by name: the leaves of each pytree."""
    state, part = record.state, record.part
    fields = state if isinstance(state, dict) else getattr(state, "_asdict", dict)()
    found = {
        name: tree.leaves(value)
        for name, value in fields.items()
        if name != "t" and tree.leaves(params) and _described(value) == _described(params)
    }
    if isinstance(part, Adam) and {"m", "v"} <= set(found):
        for name, beta in ("m", part.beta1), ("v", part.beta2):
            correction = one_minus_power(beta, state.t)
            found[f"{name}_hat"] = [value / correction for value in found[name]]
    return found


def _described(pytree: Tree) -> list[tuple[str, tuple[int, ...]]]:
    """Return the path and the shape of each array."""
    shapes = [tuple(getattr(leaf, "shape", ())) for leaf in tree.leaves(pytree)]
    return list(zip(tree.paths(pytree), shapes, strict=True))


def _of_state(key: str, part: object) -> str:
    """Return the equation of what an optimizer keeps, from its docstring or those of its bases."""
    for cls in type(part).__mro__:
        text = _one_line(cls.__doc__ or "")
        for sign in ("<-", "="):
            equation = _clause(rf"(?<![\w.]){key} {sign} ", text)
            if equation:
                return f"{key} {sign} {equation}"
    return ""


def of_loss(
    loss: Any, pred: str, y: Array, weight: Array | None, value: Array, dpred: Array
) -> list[Quantity]:
    """Return the loss and its gradient with respect to the last output, `pred`.

    Shapes: y (rows,) or (rows, n_out), weight (rows,), value 0-d, dpred (rows, n_out).

    Examples
    --------
    >>> import numpy as np
    >>> import portnet
    >>> y, dpred = np.ones((2, 1)), np.ones((2, 1))
    >>> of_loss(portnet.AbsoluteError(), "z1", y, None, np.asarray(1.0), dpred)[1].formula
    'dz1 = (1 / rows) dl/dz1,  dl/dz1 = sign(e)'
    """
    text, source = _equations(loss), name_of(loss)
    of_row = _after(r"^l = ", text)
    gradient = _after(r"\bdl/d(?:pred|z) (?:=|is) ", text)
    reduction = getattr(loss, "reduction", None)
    name = getattr(loss, "__name__", type(loss).__name__)
    formula, d_formula = f"loss = {name}({pred}, y)", f"d{pred} = its gradient, from {name}"
    if of_row and reduction in ("mean", "sum"):
        target = "y" if y.ndim == 2 else "t"
        names = {"pred": pred, "z": pred, "target": target, "t": target}
        one_hot = "" if y.ndim == 2 else ",  t = y as one-hot rows"
        sums = {"mean": "sum(w l) / sum(w)", "sum": "sum(w l)"}
        if weight is None:
            sums = {"mean": "the mean of l over the rows", "sum": "the sum of l over the rows"}
        formula = f"loss = {sums[reduction]},  l = {_renamed(of_row, names)}{one_hot}"
        if gradient:
            by = "(w / sum(w))" if reduction == "mean" else "w"
            if weight is None:
                by = "(1 / rows)" if reduction == "mean" else ""
            d_formula = f"d{pred} = {by + ' ' * bool(by)}dl/d{pred},  dl/d{pred} = "
            d_formula += _renamed(gradient, names)
    return [
        Quantity("loss", formula, value, "loss", source),
        Quantity(f"d{pred}", d_formula, dpred, "loss", source),
    ]


# Docstrings -------------------------------------------------------------------------------------


def _through_f(name: str, residuals: int) -> str:
    """Return the name of the gradient dp through f of so many Residuals: dp, dp_f, dp_ff."""
    if not residuals:
        return name
    return f"{name}{'' if re.search('_f+$', name) else '_'}{'f' * residuals}"


def _is_inside(path: str, of: str) -> bool:
    """Tell whether the layer at `path` is inside the Residual at another path."""
    inside = f"{of}.layer" if of else "layer"
    return path == inside or path.startswith((f"{inside}.", f"{inside}["))


def _kept(record: Record) -> dict[str, Array]:
    """Return the arrays that a layer keeps for backward, by name; not its x, y and parameters."""
    cache, cls = record.cache, type(record.layer)
    if type(record.layer) is Residual:
        return {}  # what the layer inside it keeps
    fields = cache if isinstance(cache, dict) else getattr(cache, "_asdict", dict)()
    for known, keys in KEPT.items():
        if cls.forward is known.forward:  # type: ignore[attr-defined]
            fields = dict(zip(keys, cache if isinstance(cache, tuple) else (cache,), strict=True))
    if not fields:
        fields = dict(zip(*_numbered(cache), strict=True))
    others = {id(record.x), id(record.y), *map(id, tree.leaves(record.params))}
    return {
        name: value
        for name, value in fields.items()
        if hasattr(value, "dtype") and hasattr(value, "shape") and id(value) not in others
    }


def _numbered(cache: Tree) -> tuple[list[str], list[Any]]:
    """Return names for the arrays of a cache that has none."""
    try:
        leaves = tree.leaves(cache)
    except TypeError:
        leaves = []
    return [f"cache{'_' * (k > 0)}{k or ''}" for k in range(len(leaves))], leaves


def _keys(params: Params) -> list[tuple[str, str]]:
    """Return the key of each parameter of a layer, and a suffix for those of layers within it."""
    paths = [re.findall(r"\w+", path) or ["params"] for path in tree.paths(params)]
    names = ["param_y" if path[-1] == "y" else path[-1] for path in paths]  # y_1 is an output
    return [
        (name, "".join(f"_{part}" for part in path[:-1]))
        for name, path in zip(names, paths, strict=True)
    ]


def _docstring(thing: object) -> str:
    text = getattr(thing if hasattr(thing, "__name__") else type(thing), "__doc__", None) or ""
    return cleandoc(text)


def _equations(thing: object) -> str:
    """Return the first paragraphs of a docstring, in one line: the equations are there."""
    text = _one_line(_docstring(thing))
    return re.split(r" (?:Parameters|Notes|Examples|Attributes) -{3}| Shapes: ", text)[0]


def _defined(key: str, layer: object, *, whole: bool = False) -> str:
    """Return the right side of ``key = ...`` in the docstrings of a layer; "" if they have none.

    `whole` is with what explains it: ``u = c x, c = 2``.
    """
    backward = _docstring(type(layer).backward)  # type: ignore[attr-defined]
    for text in _docstring(layer), backward:
        text = re.split(r" Examples -{3}", _one_line(text))[0]
        found = _after(rf"(?<![\w']){re.escape(key)} = ", text)
        if found:
            return re.split(
                r" and |, as " if whole else r": |, (?:as|or|with) | and |, \w+ = ", found
            )[0]
    return ""


def _definitions(equation: str, layer: object, kept: dict[str, str]) -> str:
    """Return the definitions of words in an equation that the docstring defines."""
    words = dict.fromkeys(re.findall(r"\b[a-z]+_[a-z]+\b", equation))
    found = {word: _defined(word, layer) for word in words if word not in kept}
    return "".join(f",  {word} = {text}" for word, text in found.items() if text)


def _clause(start: str, text: str) -> str:
    """Return what follows `start` in a docstring, until the end of the equation."""
    found = _after(start, text)
    return re.split(r", \w+ = |: | and | are ", found)[0]


def _after(start: str, text: str) -> str:
    """Return what follows `start` in a docstring, until the end of the clause; "" if nothing."""
    found = re.search(start + r"(.+?)(?:;|\.\s|\.$|$)", text)
    return re.sub(r" \([A-Z]\w+ (?:et al|and\b).*", "", found[1]) if found else ""


def _renamed(text: str, names: dict[str, str]) -> str:
    """Return an equation with other names; z also stands in z_j, but x not in x_hat."""
    either = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return re.sub(
        rf"(?<!\w)({either})(?![\w(])|(?<!\w)({either})(?=_[a-z]\b)", lambda m: names[m[0]], text
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
