"""Show: what is in a file, as a text; nothing of it is made."""

import json
from os import PathLike, fsdecode
from typing import Any

from .container import Container, open_container
from .errors import ModelFileError
from .models import describe

__all__ = ["text_of"]


def text_of(path: str | PathLike[str]) -> str:
    """Return what a file has: kind, when it was made, architecture, arrays.

    Raises ModelFileError as `portnet.load` does for headers, and for a run without settings; the
    arrays are not read.
    """
    with open_container(path) as container:
        try:
            lines = _head(describe(container), container)
        except ModelFileError as error:
            raise ModelFileError(f"{fsdecode(path)}: {error}") from error
        return "\n".join([*lines, "", *_tensors(container)])


def _head(described: dict[str, Any], container: Container) -> list[str]:
    made = described.get("made")
    made = dict(made) if isinstance(made, dict) else {}
    version = container.metadata.get("format_version")
    kind = described["kind"] if "checkpoint" not in described else "checkpoint"
    lines = [f"{kind}, format version {version}, {container.nbytes:,} bytes of arrays"]
    when = _plain(made.pop("time", "an unknown time"))
    versions = ", ".join(_plain(f"{name} {version}") for name, version in made.items())
    lines.append(f"made {when} with {versions}")
    shown: dict[str, Any] = {}
    if described["kind"] == "network":
        shown = {"model": described.get("model")}
    elif described["kind"] == "run":
        run = _dict(described, "run")
        shown = dict(_dict(_dict(run, "trainer"), "dict"))
        names = "inputs", "outputs", "classes", "feature_names", "metrics", "epoch", "stopped"
        shown |= {name: run.get(name) for name in names if run.get(name) not in (None, "")}
        shown |= {name: described.get(name) for name in ("backend", "dtype")}
    elif described["kind"] == "table":
        shown = _table(_dict(_dict(described, "table"), "dict"))
        estimator = _dict(described, "estimator")
        shown |= {name: estimator.get(name) for name in ("class", "parameters")}
    else:
        shown = {name: described.get(name) for name in ("class", "parameters")}
        shown |= {n: described[n] for n in ("base", "inherited") if n in described}
    return lines + [f"  {_plain(name)}: {_text(value)}" for name, value in shown.items()]


def _table(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a table's model predicts, and from which columns by their kinds."""
    names, kinds = fields.get("columns"), fields.get("kinds")
    shown: dict[str, Any] = {"predicts": fields.get("target")}
    if isinstance(names, list) and isinstance(kinds, str) and len(names) == len(kinds):
        for letter, kind in (("n", "numbers"), ("t", "text"), ("d", "dates")):
            found = [name for name, own in zip(names, kinds, strict=True) if own == letter]
            shown |= {f"from {kind}": found} if found else {}
        return shown
    return shown | {"from columns": names, "kinds": kinds}  # many names are a tensor


def _dict(inside: dict[str, Any], name: str) -> dict[str, Any]:
    found = inside.get(name)
    if not isinstance(found, dict):
        raise ModelFileError(f"its description is damaged: {name!r} is {found!r:.80}, no object")
    return found


def _tensors(container: Container) -> list[str]:
    names = {name: _plain(name) for name in sorted(container.specs)}
    width = max(map(len, names.values()), default=0)
    specs = container.specs
    return [
        f"  {names[n]:<{width}}  {specs[n].dtype.name:<8} {tuple(specs[n].shape)}" for n in names
    ]


def _plain(text: object) -> str:
    """Return a text without characters that a terminal would act on."""
    return text if isinstance(text, str) and text.isprintable() else repr(text)


def _text(value: Any) -> str:
    """Return a value of a description as Python would write it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    for key in ("object", "custom"):
        if key in value:
            fields = value.get("fields")
            inside = fields.items() if isinstance(fields, dict) else ()
            return (
                f"{_plain(value[key])}({', '.join(f'{_plain(k)}={_text(v)}' for k, v in inside)})"
            )
    if isinstance(value.get("tuple"), list):
        inner = ", ".join(map(_text, value["tuple"]))
        return f"({inner},)" if len(value["tuple"]) == 1 else f"({inner})"
    if isinstance(value.get("dict"), dict):
        return f"{{{', '.join(f'{k!r}: {_text(v)}' for k, v in value['dict'].items())}}}"
    if "text" in value:
        return _text(value["text"])
    for key in ("function", "float", "tensor"):
        if isinstance(value.get(key), str):
            return _plain(value[key])
    return json.dumps(value)
