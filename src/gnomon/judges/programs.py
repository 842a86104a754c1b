"""Which of a response's fenced blocks are the program.

A response often shows more than its program: how to call it, what it prints, tests, a first try
that a later block corrects. And a program may be given in pieces: helpers in one block, what calls
them in the next. What a model wrote is read by patterns here and never parsed: a parser can be
brought down by what it reads.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

from gnomon.judges.fences import PYTHON, blocks_of

_SESSION = re.compile(r"\s*(?:>>>|\$) ")
_QUOTED = re.compile(
    r"#[^\n]*|(?P<f>\b[bBuU]?[rR]?[fF][rR]?)?(?:"
    r'"""(?:[^\\"]|\\.|"(?!""))*(?:"""|\Z)|' + r"'''(?:[^\\']|\\.|'(?!''))*(?:'''|\Z)"
    r'|"(?:[^"\\\n]|\\.)*"?' + r"|'(?:[^'\\\n]|\\.)*'?)",
    re.DOTALL,
)
_NAME = re.compile(r"(?<![.\w])[^\W\d]\w*")
_DEF = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
_GIVEN = re.compile(r"^(\w+(?:[ \t]*,[ \t]*\w+)*)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE)
_IMPORT = re.compile(
    r"^(?:from[ \t]+\S+[ \t]+)?import\b([^\n(]*|[ \t]*\([^)]{0,2000}\))", re.MULTILINE
)
_RENAMED = re.compile(r"(?<![\w.])[\w.]+[ \t]+as[ \t]+")
_BOUND = re.compile(
    r"\b(?:def|class)[ \t]+\w+(?:[ \t]*\((?:[^()]|\([^()]{0,200}\)){0,500}\))?"
    r"|\bfor\b[^\n:]{0,200}?\bin\b|\blambda\b[^\n:]{0,200}:|\bas[ \t]+\(?[\w, ]+"
    r"|\bimport\b(?:[^\n(]*|[ \t]*\([^)]{0,2000}\))|(?<!\w)\w+[ \t]*:="
    r"|(?:^|;)[\w, \t*]+(?::[^=\n]*)?=(?!=)",
    re.MULTILINE,
)
"""What binds the names in it."""
_ACTS = re.compile(
    r"^(?:(?:if|for|while|try|with|assert|raise)\b"
    r"|(?!(?:def|class|import|from|async|else|elif|except|finally)\b)\w[\w.]*[ \t]*\()",
    re.MULTILINE,
)
"""A statement outside of any definition that does something."""
_BODY = re.compile(r"\A(?:[ \t]*\n)*[ \t]+\S|^return\b", re.MULTILINE)
"""What only the inside of a function has."""
_GIVES = re.compile(r"\b(?:return|yield|raise|lambda)\b|\w[ \t]*\[|(?<![=!<>])=(?!=)")
_CALL = re.compile(r"\w[ \t]*\(")
_READS = re.compile(
    r"\binput[ \t]*\(|\biter\(input\b|\bstdin\b|\bopen[ \t]*\([ \t]*0|\bfileinput\b|\bos\.read\b"
)
_FEEDS = re.compile(r"\bsys\.stdin[ \t]*=(?!=)")
_TEST = re.compile(r"test", re.IGNORECASE)
_FUTURE = re.compile(
    r"^from[ \t]+__future__[ \t]+import[ \t]*(?:\([^)]*\)|[^\n;#(\\]+)(?:;[ \t]*)?", re.MULTILINE
)
_STATEMENT = re.compile(
    r"^(?:(?:def|class|async|import|from(?!\s+__future__\b))\b|@|\w+\s*=)", re.MULTILINE
)
"""The first line behind which no import from the future may stand."""
_KNOWN = frozenset({*dir(builtins), *keyword.kwlist, "self", "cls"})


def extract_code(text: str, names: Collection[str] | None = None) -> str:
    """The program in a response: of its blocks labelled Python, else of those without a label, else
    the whole text. Empty blocks and shell sessions are no programs.

    Of several blocks it is the last that defines the functions which are called (``names``); of a
    script the last that reads its input, else the last that does more than show what an earlier one
    defines. What it uses and only other blocks define is put before it; where it only defines, the
    next block that uses it is put behind it. The body of a function that its prompt begins stands
    alone.

    Args:
        names: functions that the tests call; None for a script, which is run as it stands.
    """
    blocks = [b for b in blocks_of(text) if b.body.strip() and not _SESSION.match(b.body)]
    blocks = [b for b in blocks if b.language in PYTHON or not b.language]
    if not blocks:
        return text
    pieces = [_Piece(block.body) for block in blocks]
    labelled = [i for i, block in enumerate(blocks) if block.language]
    preferred = labelled or list(range(len(blocks)))
    if len(blocks) == 1:
        return blocks[0].body
    chosen = _script(pieces, preferred) if names is None else _named(pieces, preferred, names)
    if names is not None and pieces[chosen[-1]].continues:
        return blocks[chosen[-1]].body
    order = _completed(pieces, chosen, names is None)
    return blocks[order[0]].body if len(order) == 1 else joined(blocks[i].body for i in order)


def joined(parts: Iterable[str]) -> str:
    """Pieces of a program as one, their imports from the future above all."""
    split = [futures_of(part) for part in parts]
    futures = [line for lines, _ in split for line in lines]
    bodies = "\n\n".join(rest.rstrip() for _, rest in split)
    return "".join(f"{line}\n" for line in dict.fromkeys(futures)) + f"{bodies}\n"


def futures_of(code: str) -> tuple[list[str], str]:
    """The imports from the future at the head of a program, and the program without them."""
    statement = _STATEMENT.search(code)
    cut = statement.start() if statement else len(code)
    futures = [found[0].strip().rstrip(";").strip() for found in _FUTURE.finditer(code[:cut])]
    return futures, _FUTURE.sub("", code[:cut]) + code[cut:]


class _Piece:
    """A block that may be the program, or a part of it."""

    def __init__(self, body: str) -> None:
        self.body = body

    @cached_property
    def code(self) -> str:
        """Without comments and what is in quotes."""
        return _QUOTED.sub(lambda m: "" if m[0][0] == "#" else m[0] if m["f"] else "''", self.body)

    @cached_property
    def functions(self) -> frozenset[str]:
        """Functions and classes that it defines."""
        return frozenset(_DEF.findall(self.code))

    @cached_property
    def given(self) -> frozenset[str]:
        """The same and its variables."""
        found = [name for names in _GIVEN.findall(self.code) for name in _NAME.findall(names)]
        return self.functions | {*found}

    @cached_property
    def defines(self) -> frozenset[str]:
        """The same and what it imports."""
        lists = [_RENAMED.sub("", found) for found in _IMPORT.findall(self.code)]
        return self.given | {name for found in lists for name in _NAME.findall(found)}

    @cached_property
    def wants(self) -> frozenset[str]:
        """Names that it uses, and does not bind anywhere."""
        bound = [name for found in _BOUND.finditer(self.code) for name in _NAME.findall(found[0])]
        return frozenset(_NAME.findall(self.code)) - _KNOWN - {*bound} - self.defines

    @cached_property
    def continues(self) -> bool:
        """Whether it is the body of a function that begins elsewhere."""
        return not self.functions and _BODY.search(self.code) is not None

    @cached_property
    def stub(self) -> bool:
        """Whether nothing in it gives or does anything: the head of a function, shown again."""
        return not _GIVES.search(self.code) and not self.acts

    @cached_property
    def acts(self) -> bool:
        """Whether it does something by itself."""
        return _ACTS.search(self.code) is not None

    @cached_property
    def calls(self) -> bool:
        """Whether it calls anything: a script that does not prints nothing."""
        return _CALL.search(self.code) is not None

    @cached_property
    def reads(self) -> bool:
        """Whether it reads its input."""
        return _READS.search(self.code) is not None and _FEEDS.search(self.code) is None

    def shows(self, before: Sequence[_Piece]) -> bool:
        """Whether it shows or tests what earlier blocks define, and defines nothing itself."""
        theirs = {name for piece in before for name in piece.functions}
        return all(map(_TEST.match, self.functions)) and not self.wants.isdisjoint(theirs)

    def only_calls(self, names: Collection[str]) -> bool:
        """Whether a line that is not indented calls one of these, and none returns anything."""
        called = "|".join(map(re.escape, names))
        line = rf"^(?!def\b|class\b|async\b)[^\s@].*?\b(?:{called})[ \t]*\(|^(?:{called})[ \t]*\("
        returns = re.search(r"^[ \t]*return\b", self.code, re.MULTILINE)
        return not returns and re.search(line, self.code, re.MULTILINE) is not None


def _named(pieces: Sequence[_Piece], preferred: Sequence[int], names: Collection[str]) -> list[int]:
    """The blocks that define functions: of each the last."""
    found = set()
    for name in names:
        for places in (preferred, range(len(pieces))):
            own = [i for i in places if name in pieces[i].given]
            if own:
                found.add(own[-1])
                break
    later = [i for i in preferred if found and i > max(found) and pieces[i].continues]
    if later and all(pieces[i].stub for i in found):
        return later[-1:]
    if found:
        return sorted(found)
    others = [i for i in preferred if not pieces[i].only_calls(names)]
    return [(others or preferred)[-1]]


def _script(pieces: Sequence[_Piece], preferred: Sequence[int]) -> list[int]:
    """The block that is a script, and what runs it where it only defines."""
    alive = [i for i in range(len(pieces)) if pieces[i].calls]
    alone = [i for i in alive if not pieces[i].shows(pieces[:i])]
    for places in ([i for i in alive if pieces[i].reads], alone, alive, preferred):
        some = [i for i in places if i in preferred]
        if some or (places is alone and places):
            main = (some or places)[-1]
            break
    own = pieces[main]
    later = range(main + 1, len(pieces))
    runs = [i for i in later if pieces[i].acts and not pieces[i].wants.isdisjoint(own.defines)]
    return [main, *([] if own.acts else runs[:1])]


def _completed(pieces: Sequence[_Piece], chosen: Sequence[int], script: bool) -> list[int]:
    """These blocks and those that define what they lack, in the order in which they are to run."""
    found, late, todo = {*chosen}, [], [*chosen]
    while todo:
        i = todo.pop()
        for name in sorted(pieces[i].wants):
            if any(name in pieces[k].defines for k in found):
                continue
            # what prints something of its own is taken for its functions alone
            before = [
                k for k in range(i) if name in pieces[k].functions
                or (name in pieces[k].defines and not (script and pieces[k].acts))
            ]  # fmt: skip
            behind = [k for k in range(i + 1, len(pieces)) if name in pieces[k].functions]
            if before or behind:
                k = before[-1] if before else behind[0]
                late += [] if before else [k]
                found.add(k)
                todo.append(k)
    return [*late, *sorted(found - {*late})]
