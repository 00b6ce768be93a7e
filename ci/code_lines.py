"""Count lines of code: docstrings, comments and blank lines are not counted.

``python ci/code_lines.py FILE ...`` prints a line for each file and the sum.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

CORE = ("tree", "layers", "losses", "optimizers", "gradcheck", "training")  # an hour's reading
LIMIT = 1000
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Return the number of lines of a Python file that hold code."""
    source = path.read_text()
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def main() -> None:
    """Print the counts; fail where the core files together pass the limit."""
    package = Path(__file__).parent.parent / "portnet"
    files = {path.relative_to(package).with_suffix(""): path for path in package.rglob("*.py")}
    counts = {name.as_posix(): code_lines(path) for name, path in sorted(files.items())}
    for name, count in counts.items():
        print(f"{count:5}  {name}")
    core = sum(counts[name] for name in CORE)
    print(f"{core:5}  the six core files ({', '.join(CORE)}), limit {LIMIT}")
    print(f"{sum(counts.values()):5}  in all")
    sys.exit(core >= LIMIT)


if __name__ == "__main__":
    main()
