"""What `mkdocs build` does beyond Markdown: mkdocs.yml names this file under `hooks`.

- A link out of docs/ (to a recipe, an example, CONTRIBUTING.md) leads to a page that shows that
  file, so that the site is whole without the repository.
- An entry of the navigation with a `*` stands for the pages that match it, which may be none.
- A block ```math is LaTeX, and an equation in a loss's docstring is read as the maths that it
  spells; both become MathML here, so that no browser has to fetch a renderer.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".jsonl": "json", ".toml": "toml"}
_OUTSIDE = "repository"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the navigation's patterns, and say how a block ```math is shown."""
    config.nav = list(_expanded(config.nav or [], Path(config.docs_dir)))
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": _fence}]
    return config


def _expanded(nav: list[Any], docs: Path) -> Iterator[Any]:
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            found = sorted(docs.glob(entry), key=lambda file: (file.stem != "README", file.stem))
            yield from (file.relative_to(docs).as_posix() for file in found)
        elif isinstance(entry, dict):
            (title, inner), *_ = entry.items()
            filled = list(_expanded(inner, docs)) if isinstance(inner, list) else inner
            if filled:
                yield {title: filled}
        else:
            yield entry


# -- files outside docs/


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that a page links to, and so on from there."""
    waiting = [ROOT / "docs" / file.src_uri for file in files.documentation_pages()]
    seen: set[str] = set()
    while waiting:
        page = waiting.pop()
        for match in _LINK.finditer(_prose(page.read_text(encoding="utf-8"))):
            path = _repository_path(page.relative_to(ROOT).as_posix(), match[2])
            if path.startswith(("docs/", "..")) or path in seen or not (ROOT / path).is_file():
                continue
            seen.add(path)
            files.append(File.generated(config, _uri(path), content=_as_markdown(ROOT / path)))
            waiting += [ROOT / path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links that cross the border of docs/ lead to the pages that show those files."""
    own = page.file.src_uri
    here = own.removeprefix(f"{_OUTSIDE}/") if own.startswith(f"{_OUTSIDE}/") else f"docs/{own}"

    def mended(match: re.Match[str]) -> str:
        path = _repository_path(here, match[2])
        crosses = not here.startswith("docs/") or not path.startswith("docs/")
        if not crosses or path.startswith("..") or not (ROOT / path).exists():
            return match[0]
        to = posixpath.relpath(_uri(path), posixpath.dirname(own) or ".")
        return f"{match[1]}{to}{match[3]}"

    parts = _FENCED.split(markdown)
    return "".join(p if p.startswith("```") else _LINK.sub(mended, p) for p in parts)


def _prose(markdown: str) -> str:
    return "".join(part for part in _FENCED.split(markdown) if not part.startswith("```"))


def _repository_path(page: str, target: str) -> str:
    """Where a link of a page leads, both from the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _uri(path: str) -> str:
    """The page of the site that shows a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{_OUTSIDE}/{path}" if path.endswith(".md") else f"{_OUTSIDE}/{path}.md"


def _as_markdown(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    title = f"# {file.relative_to(ROOT).as_posix()}\n\n"
    if file.suffix != ".ipynb":
        return f"{title}````{_LANGUAGES.get(file.suffix, '')}\n{text.rstrip()}\n````\n"
    cells = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"]).strip()
        cells.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return title + re.sub(r"^# ", "## ", "\n\n".join(cells), flags=re.MULTILINE)


# -- maths

_GREEK = "alpha beta gamma delta epsilon lambda mu pi rho sigma tau theta"
_NAMES = {"eps": r"\varepsilon", "lam": r"\lambda", "grad": r"\nabla", "log": r"\,\log\,"}
_NAMES |= {"exp": r"\exp", "max": r"\max", "min": r"\min", "sum": r"\sum"}
_NAMES |= {name: rf"\{name}" for name in _GREEK.split()}
_FUNCTIONS = {"clip", "mean", "sg", "odds", "std", "Var"}
_SIGNS = {"<=": r"\le ", ">=": r"\ge ", "->": r"\to ", "<-": r"\leftarrow ", "||": r"\parallel "}
_SIGNS |= {"!=": r"\ne ", "*": r"\cdot ", "%": r"\%", "{": r"\{", "}": r"\}"}
_TOKEN = re.compile(
    r"(?P<sub>[_^]\{[^}]*\})|(?P<word>[A-Za-z][A-Za-z']*(?:_[A-Za-z0-9]+)*)|(?P<space> {2,})"
    r"|(?P<sign><=|>=|->|<-|\|\||!=|[*%{}])|(?P<other>.)"
)
_MOST_WORDS = 7
_SIGN = re.compile(r"(<mo[^>]*>(?:&#x00028;|&#x0003D;|&#x0005B;|&#x0002C;)</mo>)<mo>&#x02212;</mo>")
_AS_SIGN = r'\1<mo form="prefix">&#x02212;</mo>'
_DOCSTRING_BLOCK = re.compile(
    r'<div class="highlight"><pre>(?:<span></span>)?<code>(.*?)</code></pre></div>', re.DOTALL
)
_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):(?=<code>|<a|<autoref)")


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Show the equations of docstrings as equations, and roles of Sphinx as what they name."""
    content = _ROLE.sub("", content)
    if not page.file.src_uri.startswith("maths/"):
        return content
    return _DOCSTRING_BLOCK.sub(lambda m: _typeset(m[0], html.unescape(m[1])), content)


def _typeset(block: str, code: str) -> str:
    """The block's lines as MathML; the block itself where its lines are sentences."""
    lines = [line.strip() for line in code.splitlines() if line.strip()]
    if any(_words(line) > _MOST_WORDS for line in lines):
        return block
    return '<div class="math">' + "".join(map(_mathml, map(latex, lines))) + "</div>"


def _fence(source: str, *_: Any, **__: Any) -> str:
    lines = [line for line in source.strip().split("\n\n") if line.strip()]
    return '<div class="math">' + "".join(map(_mathml, lines)) + "</div>"


def _mathml(source: str) -> str:
    made = convert(source, display="block")
    return f"<div>{_SIGN.sub(_AS_SIGN, made)}</div>"  # a sign is set closer than a difference


def _words(line: str) -> int:
    return sum(
        len(word) > 2 and "_" not in word and word not in _NAMES and word not in _FUNCTIONS
        for word in re.findall(r"[A-Za-z][\w']*", line)
    )


def latex(line: str) -> str:
    """An equation as docstrings spell it (``L = -log sigma(beta h)``) in LaTeX."""
    out = []
    for match in _TOKEN.finditer(line):
        kind, text = match.lastgroup, match[0]
        if kind == "sub":
            out.append(f"{text[0]}{{{latex(text[2:-1])}}}")
        elif kind == "word":
            out.append(_word(text))
        elif kind == "space":
            out.append(r"\quad ")
        else:
            out.append(_SIGNS.get(text, text))
    return "".join(out)


def _word(word: str) -> str:
    name, _, index = word.partition("_")
    known = name in _NAMES or name in _FUNCTIONS or len(name) <= 2 or name.isupper()
    if not known:
        return rf"\text{{ {word} }}"
    base = _NAMES.get(name) or (name if len(name) == 1 else rf"\operatorname{{{name}}}")
    if not index:
        return base + " "
    inner = _NAMES.get(index) or (index if len(index) == 1 else rf"\text{{{index}}}")
    return f"{base}_{{{inner}}}"
