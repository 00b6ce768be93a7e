"""The guide of the site: examples/guide/*.md and examples/README.md become pages.

Links between them lead to pages; links to other files of the repository become their paths, and
pictures are copied.
"""

import re
import shutil
from pathlib import Path

import tutorials

ROOT = Path(__file__).resolve().parent.parent
NAMES = "students scikit_learn devices training files exchange processes shell speed".split()
PAGES = [
    *(ROOT / "examples" / "guide" / f"{name}.md" for name in NAMES),
    ROOT / "examples/README.md",
]


def build(site):
    """Write the pages and their index into `site`/guide."""
    import markdown2

    out = site / "guide"
    out.mkdir(parents=True, exist_ok=True)
    texts = {path: path.read_text(encoding="utf-8") for path in PAGES}
    titles = {path: text.partition("\n")[0].removeprefix("# ") for path, text in texts.items()}
    for path, text in texts.items():
        # Without formulas, for which markdown2 would change backticks in blocks of code.
        body = markdown2.markdown(linked(text, path.parent, out), extras=tutorials.EXTRAS)
        page = tutorials.whole(titles[path], body, titles)
        (out / f"{path.stem}.html").write_text(page, encoding="utf-8")
    items = [f'<li><a href="{path.stem}.html">{title}</a></li>' for path, title in titles.items()]
    index = f"<h1>Guide</h1>\n<ul>{''.join(items)}</ul>"
    (out / "index.html").write_text(tutorials.whole("Guide", index, titles), encoding="utf-8")


def linked(text, folder, out):
    """Return Markdown whose links are those of the site; its pictures are copied to `out`."""

    def link(match):
        picture, shown, target = match.groups()
        path = (folder / target.partition("#")[0]).resolve()
        if picture:
            shutil.copyfile(path, out / path.name)
            return f"![{shown}]({path.name})"
        if path in PAGES:
            return f"[{shown}]({path.stem}.html)"
        if path == ROOT / "examples" / "tutorials":
            return f"[{shown}](../tutorials/index.html)"
        where = f"`{path.relative_to(ROOT)}`"
        return where if shown in where else f"{shown} ({where})"

    return re.sub(r"(!?)\[([^]]*)\]\((?!https?:)([^)]*)\)", link, text)
