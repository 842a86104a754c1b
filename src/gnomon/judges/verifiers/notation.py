"""One spelling for the many ways an answer is written, without losing what its parts mean.

Spaces between digits, braces, brackets and signs carry meaning (``1 1/2``, ``\\frac{1}{23}``,
``(1,200)``), so nothing here deletes them: every rule replaces one notation by another of the same
structure.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

THOUSANDS = "\u201a"
"""Stands for a comma that can only be a thousands separator (LaTeX's ``{,}`` and ``,\\!``)."""
MONEY = "\\$"

_CHARACTERS = {
    **dict.fromkeys("\u2212\u2013\u2014\u2012\u2010\u2011\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a", " "),
    **dict.fromkeys("\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("\u2018\u2019\u02bc\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u2033", '"'),
    **dict.fromkeys("×✕", "\\times "),
    **dict.fromkeys("·⋅∙•", "\\cdot "),
    "÷": "\\div ", "⁄": "/", "∕": "/", "√": "\\sqrt ", "∛": "\\sqrt[3] ", "∜": "\\sqrt[4] ",
    "π": "\\pi ", "𝜋": "\\pi ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ",
    "γ": "\\gamma ", "λ": "\\lambda ", "μ": "\\mu ", "µ": "\\mu ", "σ": "\\sigma ",
    "φ": "\\phi ", "ω": "\\omega ", "Δ": "\\Delta ", "Ω": "\\Omega ",
    "∞": "\\infty ", "±": "\\pm ", "∓": "\\mp ", "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ",
    "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "≃": "\\approx ", "≅": "\\approx ",
    "∈": "\\in ", "∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ", "∖": "\\setminus ",
    "→": "\\to ", "⟨": "\\langle ", "⟩": "\\rangle ", "〈": "\\langle ", "〉": "\\rangle ",
    "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}",
    "∣": "|", "º": "°", "˚": "°", "℃": "°C", "℉": "°F", "％": "%", "…": "...",
    "﹣": "-", "，": ",", "、": ",", "；": ";", "：": ":", "（": "(",
    "）": ")", "．": ".", "。": ".",
}  # fmt: skip
_TRANSLATION = str.maketrans(_CHARACTERS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n")

_WRAPPER = re.compile(
    r"\\(text|textbf|textit|textrm|textnormal|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathtt|mbox"
    r"|hbox|operatorname\*?|emph|boldsymbol|bm|bold|boxed|fbox|underline|mathstrut|displaystyle"
    r"|textstyle|ensuremath|color)\s*\{"
)
_IGNORED = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|Biggr|big|Big|bigg|Bigg|displaystyle"
    r"|textstyle|limits|nolimits|mathstrut|rm|bf|it|tiny|small|large|Large|phantom\{[^{}]*\})"
    r"(?![A-Za-z])\s?"
)
_RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "varnothing": "emptyset", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]",
    "lvert": "|", "rvert": "|", "vert": "|", "ast": "cdot", "simeq": "approx", "cong": "approx",
    "thickapprox": "approx", "backslash": "setminus", "land": "and", "lor": "or", "wedge": "and",
    "vee": "or", "Rightarrow": "to", "implies": "to", "dots": "...", "ldots": "...",
    "cdots": "...", "bar": "overline", "degree": "°", "colon": ":", "euro": "€", "pounds": "£",
    "epsilon": "varepsilon", "varphi": "phi",
}  # fmt: skip
_PLAIN = {"<": "<", ">": ">", "|": "|", "[": "[", "]": "]", "°": "°", "...": "...", ":": ":",
          "€": "€", "£": "£", "and": " and ", "or": " or "}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_FUNCTIONS = (
    "sqrt|pi|sin|cos|tan|cot|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp|infty|theta|alpha|"
    "beta|lambda"
)
_PLACE = re.compile(
    r"(?<![\w.])(\d[\d,]*)(?:\s+(st|nd|rd|th)(?![A-Za-z])|\s*\^(?:\s+|\s*\{\s*)(st|nd|rd|th)(?![A-Za-z])\s*\}?)"
)
_PLAIN_FUNCTION = re.compile(
    rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])|(?<![A-Za-z\\])(sec|min|max|gcd|lcm)(?=\s*\()"
)
"""Functions in plain text; sec and min are units unless a bracket follows."""


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """``text`` in one notation: LaTeX with braces round every argument, single spaces.

    Delimiters of maths mode, text wrappers, sizes and markdown marks go; thin spaces and Unicode
    signs become their plain counterparts; ``\\frac12`` becomes ``\\frac{1}{2}`` and ``x^23``
    ``x^{23}`` (as it is meant in plain text).
    """
    text = _plain_characters(text)
    text = _undelimited(text)
    text = _unwrapped(text)
    text = _IGNORED.sub("", text)
    text = re.sub(r"\\(?=\.(?:\s|$))", "", text)
    text = _COMMAND.sub(_renamed, text)
    text = text.replace("\\%", "%").replace("\\#", "#").replace("\\&", "&").replace("\\_", "_")
    text = re.sub(r"(?<![A-Za-z])per\s?cent(?![A-Za-z])|(?<![A-Za-z])pct(?![A-Za-z])", "%", text)
    text = re.sub(r"(?<=[\d}])\s*percent(?:age)?(?![A-Za-z])", "%", text, flags=re.IGNORECASE)
    text = _separators(text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))", "°", text)
    text = text.replace("<=", "\\le ").replace(">=", "\\ge ").replace("!=", "\\ne ")
    text = text.replace("**", "^").replace("~=", "\\approx ")
    text = re.sub(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", "\\\\infty ", text)
    text = _PLAIN_FUNCTION.sub(lambda m: f"\\{m[1] or m[2]}", text)
    text = _PLACE.sub(_place, text)
    text = _braced(text)
    text = re.sub(r"\s+(?=[\^_]\{)", "", text)
    text = re.sub(r"\s+", " ", text).strip()
    return _without_outer(text)


def squeezed(text: str) -> str:
    """A canonical text without the spaces that mean nothing: those next to a sign or a bracket."""
    text = re.sub(r"(?<![A-Za-z0-9.}])\s+|\s+(?![A-Za-z0-9.\\])", "", text)
    return re.sub(r"(?<=[A-Za-z0-9}])\s+(?=\\)", "", text)


def split_outside(text: str, separator: str) -> list[str]:
    """The parts between matches of ``separator`` (a pattern) that are outside all brackets."""
    parts, start, depth, at = [], 0, 0, 0
    pattern = re.compile(separator)
    while at < len(text):
        char = text[at]
        if char == "\\" and text[at + 1 : at + 2] in ("{", "}"):
            depth += 1 if text[at + 1] == "{" else -1
            at += 2
            continue
        match = pattern.match(text, at) if depth == 0 else None
        if match and match.end() > at:
            parts.append(text[start:at].strip())
            start = at = match.end()
            continue
        depth += (char in "([{") - (char in ")]}")
        at += 1
    return [*parts, text[start:].strip()]


def closing(text: str, at: int) -> int:
    """Where the brace that opens at ``at`` closes; -1 where it does not."""
    depth = 0
    for i in range(at, len(text)):
        if text[i] in "{}" and (i == 0 or text[i - 1] != "\\"):
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return i
    return -1


def depth_of(text: str) -> int:
    """How deep brackets are nested at most."""
    deepest = depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


# -- the steps -------------------------------------------------------------------------------------


def _plain_characters(text: str) -> str:
    text = text.translate(_TRANSLATION)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m[0].translate(_RAISED) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+", lambda m: "_{" + m[0].translate(_LOWERED) + "}", text)
    out = []
    for char in text:
        if ord(char) < 128:
            out.append(char if char.isprintable() or char in "\n\t" else " ")
            continue
        decomposed = unicodedata.normalize("NFKC", char)
        if "\u2044" in decomposed:  # a vulgar fraction
            above, below = decomposed.split("\u2044")
            out.append(f" \\frac{{{above}}}{{{below}}} " if below else char)
        elif unicodedata.category(char) in ("Nd", "Lu", "Ll") and decomposed.isascii():
            out.append(decomposed)  # full-width and mathematical letters and digits
        else:
            out.append(" " if unicodedata.category(char) in ("Cc", "Cf", "Zs", "Zl") else char)
    return "".join(out)


def _undelimited(text: str) -> str:
    """Without dollar signs of maths mode, ``\\(``, ``\\[``, and markdown's stars and backticks."""
    text = text.strip()
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text)
    text = re.sub(r"(?<!\\)\$\$", " ", text)
    # $...$ is maths if no blank follows the first sign or precedes the second, and no digit follows
    text = re.sub(r"(?<!\\)\$(?=\S)((?:[^$\\]|\\.)*?)(?<=\S)\$(?!\d)", r" \1 ", text)
    text = re.sub(r"(?<!\\)\$(?=[\s]*$)", " ", text)  # the end of maths whose start was cut off
    text = re.sub(r"(?<!\\)\$", lambda m: MONEY, text)
    text = re.sub(r"(?<![\w*])(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1(?![\w*])", r" \2 ", text)
    text = text.strip().strip("`").strip()
    return re.sub(r"^(?:\*\*|__)\s*(?=[^*])|\s*(?:\*\*|__)$", "", text).strip()


def _unwrapped(text: str) -> str:
    for _ in range(200):
        match = _WRAPPER.search(text)
        if match is None:
            break
        end = closing(text, match.end() - 1)
        if end < 0:
            return text[: match.start()] + " " + text[match.end() :]
        inner = text[match.end() : end]
        if match[1] == "color":
            inner = ""
        tight = match[1].startswith(("math", "b", "operator", "ens")) and len(inner.strip()) == 1
        space = "" if tight else " "
        text = f"{text[: match.start()]}{space}{inner}{space}{text[end + 1 :]}"
    return text


def _renamed(match: re.Match[str]) -> str:
    name = _RENAMED.get(match[1], match[1])
    if name in _PLAIN:
        return _PLAIN[name]
    return f"\\{name}"


def _place(match: re.Match[str]) -> str:
    """``5^{th}`` as 5th; anything else as it is."""
    ending = match[2] or match[3]
    teen = match[1][-2:-1] == "1"
    right = "th" if teen else {"1": "st", "2": "nd", "3": "rd"}.get(match[1][-1], "th")
    return f"{match[1]}{ending}" if ending == right else match[0]


def _separators(text: str) -> str:
    """Thousands separators of LaTeX, and its spaces."""
    text = re.sub(r"(?<=\d)(?:\{,\}|,\s*\\!|\\!\s*,|,\s*\\,)\s*(?=\d{3}(?!\d))", THOUSANDS, text)
    text = re.sub(r"\{,\}", ",", text)
    text = text.replace("\\!", "")
    return re.sub(
        r"(?<!\\)\\[,;: >]|\\(?:quad|qquad|thinspace|enspace|space)(?![A-Za-z])|~", " ", text
    )


def _braced(text: str) -> str:
    """Arguments in braces: ``\\frac12``, ``\\sqrt2``, ``\\sqrt(2)``, ``x^23``, ``x_1``."""
    text = re.sub(r"\\sqrt\s*\[([^\[\]{}]*)\]\s*", r"\\sqrt[\1]", text)
    text = re.sub(r"\\(sqrt(?:\[[^\[\]{}]*\])?)\s*\(", r"\\\1(", text)
    text = _bracket_argument(text)
    text = re.sub(r"\\(sqrt(?:\[[^\[\]{}]*\])?)\s*(\\[A-Za-z]+|\d|[A-Za-z])", r"\\\1{\2}", text)
    item = r"(\\[A-Za-z]+|\d|[A-Za-z])"
    text = re.sub(rf"\\(frac|binom)\s*{item}\s*(?={item}|\{{)", r"\\\1{\2}", text)
    text = re.sub(
        r"(\\(?:frac|binom)\s*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}))\s*(\\[A-Za-z]+|\d|[A-Za-z])",
        r"\1{\2}",
        text,
    )
    text = re.sub(r"\\(frac|binom)\s*\{", r"\\\1{", text)
    text = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"\^\s*(-?\s*\d+|-?\s*[A-Za-z]|-?\s*\\[A-Za-z]+)", r"^{\1}", text)
    text = re.sub(r"\^\s*\{", "^{", text)
    text = re.sub(r"(?<=[A-Za-z0-9})])_\s*(\d+|[A-Za-z]|\\[A-Za-z]+)", r"_{\1}", text)
    return re.sub(r"(?<=[A-Za-z0-9})])_\s*\{\s*([^{}]*?)\s*\}", r"_{\1}", text)


def _bracket_argument(text: str) -> str:
    """``\\sqrt(...)`` as ``\\sqrt{...}``, brackets balanced."""
    while (match := re.search(r"\\sqrt(?:\[[^\[\]{}]*\])?\(", text)) is not None:
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        if depth:
            return text.replace("\\sqrt(", "\\sqrt (")
        text = f"{text[: match.end() - 1]}{{{text[match.end() : end - 1]}}}{text[end:]}"
    return text


def _without_outer(text: str) -> str:
    """Without a final stop, and without braces round the whole (a set where they hold a list)."""
    for _ in range(20):
        before = text
        text = re.sub(r"(?<!\.)\.$|[;,:]$|(?<=[A-Za-z%°)\]}])[?!]$", "", text.strip()).strip()
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            inner = text[1:-1].strip()
            listed = len(split_outside(inner, ",")) > 1
            text = f"\\{{{inner}\\}}" if listed else inner
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        if text == before:
            break
    return text
