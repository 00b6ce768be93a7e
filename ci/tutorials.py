"""The tutorials of the site: scripts in percent format become pages with what they print and draw.

A script of examples/tutorials begins with a docstring. Below it, ``# %%`` begins a cell of code and
``# %% [markdown]`` a cell of text, in comments; formulas are LaTeX between dollar signs. The cells
are run in order, in a process and a folder of their own, where warnings are errors. A page shows
below each cell of code what it printed, and the PNG files that it wrote into the folder.
"""

import ast
import contextlib
import html
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent.parent / "examples" / "tutorials"
SECONDS = 300  # after which a tutorial has failed
ORDER = ("backpropagation", "scikit_learn_users", "gpu_users", "more_data_than_memory")


class Cell(NamedTuple):
    """A cell: text as Markdown, or code; `line` is the number of its first line in the script."""

    kind: str
    text: str
    line: int


def scripts(folder=FOLDER):
    """Return the scripts of a folder: those in ORDER first, then others by name."""
    known = {name: i for i, name in enumerate(ORDER)}
    return sorted(folder.glob("*.py"), key=lambda p: (known.get(p.stem, len(known)), p.stem))


def cells(text):
    """Return the cells of a script in percent format; what is above the first is left out."""
    found: list[Cell] = []
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"# %%", line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        body = lines[start + 1 : end]
        if lines[start].strip() == "# %%":
            found.append(Cell("code", "\n".join(body).strip("\n"), start + 2 + blank(body)))
        elif lines[start].strip() == "# %% [markdown]":
            wrong = [line for line in body if line and not line.startswith("#")]
            if wrong:
                raise ValueError(f"line {start + 1}: expected only comments, got {wrong[0]!r}")
            found.append(Cell("text", "\n".join(s[2:] for s in body).strip("\n"), start + 2))
        else:
            raise ValueError(f"line {start + 1}: expected '# %%' or '# %% [markdown]'")
    return found


def blank(lines):
    """Return the number of empty lines at the beginning."""
    return next((i for i, line in enumerate(lines) if line.strip()), 0)


def run(script):
    """Run the cells of a script; return [what it printed, the PNG files it wrote] for each."""
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(script)}
    found, seen = [], set()
    for cell in cells(script.read_text(encoding="utf-8")):
        printed = io.StringIO()
        if cell.kind == "code":
            code = compile("\n" * (cell.line - 1) + cell.text, str(script), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, names)
        # In the order in which they were written; names decide where that is the same.
        new = sorted({*Path().glob("*.png")} - seen, key=lambda p: (p.stat().st_mtime_ns, p.name))
        seen |= {*new}
        found.append((printed.getvalue(), [path.name for path in new]))
    return found


def build(site, folder=FOLDER):
    """Write a page for each script, and their index, into `site`/tutorials; return the faults."""
    out = site / "tutorials"
    out.mkdir(parents=True, exist_ok=True)
    pages, faults = {}, []
    for script in scripts(folder):
        try:
            pages[script] = page(script, out)
        except RuntimeError as error:
            faults.append(str(error))
    if not faults:
        titles = {script: title for script, (title, _) in pages.items()}
        for script, (title, body) in pages.items():
            (out / f"{script.stem}.html").write_text(whole(title, body, titles), encoding="utf-8")
        (out / "index.html").write_text(whole("Tutorials", index(titles), titles), encoding="utf-8")
    return faults


def page(script, out):
    """Return the title and the body of the page of a script; its pictures are written to `out`."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    text = script.read_text(encoding="utf-8")
    parts, title = [], script.stem
    for cell, (printed, pictures) in zip(cells(text), results(script, out), strict=True):
        if cell.kind == "text":
            heading = re.match(r"# (.*)", cell.text)
            title = heading.group(1) if heading and not parts else title
            parts.append(markdown(cell.text))
            continue
        parts.append(highlight(cell.text, PythonLexer(), HtmlFormatter(cssclass="code")))
        if printed:
            parts.append(f'<pre class="output">{html.escape(printed.rstrip())}</pre>')
        for name in pictures:
            words = Path(name).stem.replace("_", " ")
            parts.append(f'<img src="{script.stem}-{name}" alt="Picture: {words}">')
    where = f"examples/tutorials/{script.name}"
    parts.append(f'<p class="source">This page is the script <code>{where}</code>.</p>')
    return title, "\n".join(parts)


def results(script, out):
    """Return what `run` returns, of a process of its own; RuntimeError has what went wrong."""
    with tempfile.TemporaryDirectory(prefix="portnet-tutorial-") as folder:
        answer = Path(folder) / "cells.json"
        command = [sys.executable, "-W", "error", str(Path(__file__).resolve())]
        command += [str(script.resolve()), str(answer)]
        package = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": path}
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{script.name}: has not ended after {SECONDS} s") from None
        if done.returncode:
            raise RuntimeError(f"{script.name}: a cell failed\n{done.stderr.strip()}")
        found = json.loads(answer.read_text(encoding="utf-8"))
        for _, pictures in found:
            for name in pictures:
                (out / f"{script.stem}-{name}").write_bytes((Path(folder) / name).read_bytes())
    return found


EXTRAS = ["code-friendly", "cuddled-lists", "fenced-code-blocks", "header-ids", "tables"]


def markdown(text):
    """Return Markdown as HTML, formulas as MathML."""
    import markdown2

    # A line that begins with a formula would begin a paragraph.
    text = re.sub(r"(?<=\S)\n(?=\$[^$])", " ", text)
    return str(markdown2.markdown(text, extras=[*EXTRAS, "latex"]))


def index(titles):
    """Return a list of the pages, with what the docstrings say of them."""
    items = []
    for script, title in titles.items():
        about = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        about = html.escape(about.partition("\n\n")[0].replace("\n", " "))
        items.append(f'<li><a href="{script.stem}.html">{html.escape(title)}</a><br>{about}</li>')
    return f"<h1>Tutorials</h1>\n<ul>{''.join(items)}</ul>"


def whole(title, body, titles):
    """Return a whole page; `titles` are the names of the pages beside it."""
    from pygments.formatters import HtmlFormatter

    links = "".join(
        f'<a href="{script.stem}.html">{html.escape(name)}</a>' for script, name in titles.items()
    )
    colours = HtmlFormatter(cssclass="code").get_style_defs([".code", ".codehilite"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)} - portnet</title>\n<style>\n{colours}\n{STYLE}</style>\n"
        f"</head>\n<body>\n<nav>{HOME}{links}</nav>\n"
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


HOME = "".join(
    f'<a href="../{page}"><b>{name}</b></a>'
    for name, page in {
        "portnet": "portnet.html",
        "Guide": "guide/index.html",
        "Tutorials": "tutorials/index.html",
    }.items()
)
STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: #212529; }
main { max-width: 54rem; margin: 0 auto; padding: 1rem; }
nav { background: #f0f0f0; padding: .5rem 1rem; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
a { color: #3660a5; }
pre { font-size: 13px; line-height: 1.4; overflow-x: auto; padding: .6rem .8rem; margin: .6rem 0; }
.code, .codehilite { background: #f6f8fa; border-radius: 4px; }
.output { border-left: 3px solid #c1c1c1; color: #333; }
img { max-width: 100%; }
math[display=block] { margin: .8rem 0; font-size: 1.1em; }
table { border-collapse: collapse; }
td, th { border: 1px solid #ddd; padding: .2rem .6rem; text-align: left; }
.source { color: #6c757d; border-top: 1px solid #ddd; padding-top: .5rem; margin-top: 2rem; }
"""


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(Path(sys.argv[1]))), encoding="utf-8")
