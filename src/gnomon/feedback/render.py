"""What models and people wrote, as HTML that can do nothing: Markdown, code and maths.

Markdown is read with HTML off (so that a tag is shown as it was written), maths becomes MathML, and
what comes out passes a sanitiser whatever happened before. Nothing is left out: what cannot be seen
or would turn text around is shown by its number, a link is followed by where it leads, an image is
its address, a long text is folded but whole, and where Markdown would swallow words the text is
shown as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import unescape
from typing import Any

from markupsafe import Markup, escape

from gnomon.console import SHOWN, visible
from gnomon.errors import ConfigError
from gnomon.feedback.clips import clip_parts, video_name

try:
    import nh3
    from latex2mathml.converter import convert as mathml
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.texmath import texmath_plugin
except ImportError as missing:
    raise ConfigError(
        f"showing texts to labellers needs a package that is not installed ({missing}): "
        "pip install 'gnomon-rlhf[label]'"
    ) from missing

HEAD = 6_000
"""Characters of a text that are shown at once; the rest is folded."""
FORMATTED = 40_000
"""Characters that are read as Markdown; the rest is shown as it was written."""
LONGEST = 400_000
"""Characters that a page holds; the whole of a longer text has a page of its own."""
_LONGEST_FORMULA = 2_000

_HTML_TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "span", "div"),
}
_MATH_TAGS = {
    *("math", "mi", "mo", "mn", "mrow", "mfrac", "msqrt", "mroot", "msup", "msub", "msubsup"),
    *("mover", "munder", "munderover", "mtable", "mtr", "mtd", "mtext", "mspace", "mpadded"),
    *("mphantom", "mstyle", "menclose", "mmultiscripts", "mprescripts", "none"),
}
_MATH_ATTRIBUTES = {
    *("display", "displaystyle", "mathvariant", "stretchy", "fence", "separator", "form"),
    *("accent", "accentunder", "columnalign", "rowspacing", "columnspacing", "linethickness"),
    *("lspace", "rspace", "minsize", "maxsize", "scriptlevel", "notation", "width"),
}
_CLEANER = nh3.Cleaner(
    tags=_HTML_TAGS | _MATH_TAGS,
    attributes={
        "a": {"href"},
        "ol": {"start"},
        "code": {"class"},
        "span": {"class"},
        "div": {"class", "tabindex", "role", "aria-label"},
        "pre": {"tabindex"},
        "*": set(),
        **dict.fromkeys(_MATH_TAGS, _MATH_ATTRIBUTES),
    },
    url_schemes={"http", "https", "mailto"},
    link_rel="noopener noreferrer nofollow ugc",
)
_TAG = re.compile(r"</?\s*([^\s/>]*)")
_GONE = dict.fromkeys(SHOWN)


def for_field(text: str) -> str:
    """The text as somebody edits it: without what :func:`visible` shows by a sign or number, since
    a text field would show nothing of it, and with the line ends of a text field."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_GONE)


@dataclass(frozen=True)
class Shown:
    """A text on a page.

    Attributes:
        head: as HTML, at once.
        rest: as HTML, behind a fold; None where the head is all.
        length: characters of the whole text.
        hidden: how many of them are behind the fold.
        beyond: how many are only on the text's own page.
    """

    head: Markup
    rest: Markup | None = None
    length: int = 0
    hidden: int = 0
    beyond: int = 0


@lru_cache(maxsize=256)
def show(text: str) -> Shown:
    """A text as Markdown, folded where it is long, and plain where it is very long; a clip as its
    video, with its text folded."""
    clip = clip_parts(text)
    if clip is not None:
        return Shown(_video(text, clip), _plain(text[:LONGEST]), len(text), len(text),
                     max(0, len(text) - LONGEST))  # fmt: skip
    if len(text) <= HEAD + HEAD // 4:  # a fold that hides a line or two annoys
        return Shown(markdown(text), length=len(text))
    cut = _place(text, HEAD)
    formatted, kept = text[cut:FORMATTED], text[max(cut, FORMATTED) : LONGEST]
    rest = markdown(formatted)
    if kept:
        rest += _plain(kept)
    beyond = max(0, len(text) - LONGEST)
    return Shown(markdown(text[:cut]), rest, len(text), len(text) - cut, beyond)


def _plain(text: str) -> Markup:
    """A text as it was written."""
    return Markup('<pre class="plain" tabindex="0">{}</pre>').format(visible(text))


def _video(text: str, clip: Mapping[str, Any]) -> Markup:
    """A clip, played over and over."""
    words = f"{clip['steps']} steps of {clip['clip']}"
    return Markup(
        '<video class="clip" src="/clips/{}" aria-label="{}" autoplay muted loop playsinline '
        'controls></video>\n<p class="soft small">{}</p>'
    ).format(video_name(text), visible(words), visible(words))


def _place(text: str, limit: int) -> int:
    """Where to cut: after the last paragraph, line or word before the limit, else at it."""
    for end in ("\n\n", "\n", " "):
        found = text.rfind(end, limit // 2, limit)
        if found >= 0 and text[:found].count("```") % 2 == 0:
            return found + len(end)
    return limit


def markdown(text: str) -> Markup:
    """Markdown as sanitised HTML; as it was written, where it is costly or would lose words."""
    source = visible(text)
    html = None if _is_costly(source) else _rendered(source)
    return html or _plain(text)


def _rendered(source: str) -> Markup | None:
    said: dict[str, int] = {"formulas": 0}
    try:
        raw = _MARKDOWN.render(source, said)
    except (RecursionError, ValueError, IndexError):
        return None
    html = visible(_CLEANER.clean(raw))  # an entity may have brought a character back
    marks = sum(_words(found) for found in _MARKS.findall(source))
    missing = _words(source) - marks - said["formulas"] - _words(unescape(_text(html)))
    return None if missing > 0 else Markup(html)


_MARKS = re.compile(r"^[\s>*+-]*(?:\d+[.)]\s+)+|&#?\w+;", re.MULTILINE)
"""Numbers of lists and entities: what is shown of them is something else."""


def _words(text: str) -> int:
    """How many letters and digits it has."""
    return sum(map(str.isalnum, text))


def _text(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


_DELIMITERS = re.compile(r"[\[\]*_`~$<>!\\|&]")
_BLOCKS = re.compile(r"\\[\[(]|\$\$")
_MOST_DELIMITERS, _MOST_BLOCKS = 1_500, 400


def _is_costly(text: str) -> bool:
    """Whether a paragraph has so many delimiters, or a text so many formulas, that the
    parser, which takes the square of their number, would need seconds."""
    if len(text) < _MOST_BLOCKS:
        return False
    if len(_BLOCKS.findall(text)) > _MOST_BLOCKS:
        return True
    return any(len(_DELIMITERS.findall(part)) > _MOST_DELIMITERS for part in text.split("\n\n"))


def formula(source: str, block: bool = False) -> str:
    """LaTeX as MathML; as it was written, where it cannot be read or says more than maths."""
    shown = ""
    if len(source) <= _LONGEST_FORMULA:
        try:
            shown = mathml(source, display="block" if block else "inline")
        except Exception:  # whatever a parser of strangers' LaTeX trips over
            shown = ""
    tags = {tag.lower() for tag in _TAG.findall(shown)}
    if not shown or tags - _MATH_TAGS or " href=" in shown or "\\" in _text(shown):
        return f'<code class="tex">{escape(source.strip())}</code>'
    return shown


def _parser() -> MarkdownIt:
    parser = MarkdownIt("js-default", {"html": False, "linkify": False, "maxNesting": 20})
    dollarmath_plugin(
        parser, allow_labels=False, allow_digits=False, allow_space=False, double_inline=True
    )
    texmath_plugin(parser, delimiters="brackets")
    for name in ("math_inline", "math_inline_double", "math_block", "math_block_eqno"):
        parser.add_render_rule(name, _formula)
    parser.disable("reference")  # definitions of links would not be shown
    parser.add_render_rule("image", _image)
    parser.add_render_rule("fence", _code)
    parser.add_render_rule("code_block", _code)
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    parser.core.ruler.push("where", _where)
    parser.core.ruler.push("levels", _levels)
    return parser


def _formula(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    token = tokens[i]
    env["formulas"] += _words(token.content)
    shown = formula(token.content, block=token.type != "math_inline")
    if not token.block:
        return shown
    number = f" ({escape(token.info)})" if token.type == "math_block_eqno" else ""
    told = 'tabindex="0" role="group" aria-label="formula"'
    return f'<div class="formula" {told}>{shown}{number}</div>\n'


def _image(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    """An image is not fetched: its words and its address."""
    address = str(tokens[i].attrGet("src") or "")
    title = str(tokens[i].attrGet("title") or "")
    words = f"[image: {tokens[i].content}] ({address}{f' “{title}”' if title else ''})"
    return f'<span class="image">{escape(words)}</span>'


def _code(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    token = tokens[i]
    name = token.info.strip()
    told = f'<div class="language">{escape(name)}</div>' if name else ""
    return f'{told}<pre tabindex="0"><code>{escape(token.content)}</code></pre>\n'


def _table_open(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    return '<div class="scroll" tabindex="0" role="group" aria-label="table"><table>'


def _table_close(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    return "</table></div>\n"


def _levels(state: Any) -> None:
    """Headings from the third level on, none deeper by more than one than that before it."""
    above, level = 2, 3
    for token in state.tokens:
        if token.type == "heading_open":
            level = min(6, above + 1, int(token.tag[1]) + 2)
            above = level
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{level}"


def _where(state: Any) -> None:
    """After every link, where it leads."""
    for block in state.tokens:
        children = block.children or []
        out: list[Token] = []
        open_at = 0
        for token in children:
            if token.type == "link_open":
                open_at = len(out)
            out.append(token)
            if token.type == "link_close":
                opened = out[open_at]
                address = str(opened.attrGet("href") or "")
                words = "".join(t.content for t in out[open_at:])
                title = str(opened.attrGet("title") or "")
                if address and address.removeprefix("mailto:") != words:
                    told = Token("text", "", 0)
                    told.content = f" ({address}{f' “{title}”' if title else ''})"
                    out.append(told)
        if block.children is not None:
            block.children = out


_MARKDOWN = _parser()
