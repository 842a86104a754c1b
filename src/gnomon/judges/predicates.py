"""What the words behind a judge's letter say of that answer: "A wins", "A was wrong less often".

A verdict names the better answer; what is said of it may be the opposite of that. Praise, blame and
what turns them round are looked for only in what is said of the letter itself; where that cannot
be told, nothing is.
"""

from __future__ import annotations

import re
from typing import Literal

Says = Literal["good", "bad", "unclear", "nothing"]

_PRAISE = (
    "better best right correct stronger strongest superior good great accurate helpful clear"
    " clearer complete relevant useful truthful reliable convincing coherent detailed thorough safe"
    " wins won win winning winner preferred preferable"
)
_WEAK = "worse worst weaker weakest inferior poorer poorest"
_BLAME = (
    f"{_WEAK} wrong incorrect bad poor false incomplete unclear vague off inaccurate unhelpful"
    " flawed misleading unsafe harmful irrelevant biased mistaken confusing useless untruthful"
    " nonsense loser losing loses lost lose losses fails failed fail failing misses missed miss"
    " missing lacks lacked lack lacking ignores ignored ignore omits omitted omit"
    " hallucinates hallucinated hallucinate errs erred err verbose wordy repetitive"
)
_FAULTS = "errors error mistakes mistake flaws flaw faults fault inaccuracies hallucinations"
_BETWEEN = (
    "is was are were be been being seems seemed looks looked appears appeared feels felt remains to"
    " would should could can may might must will does do did has have had got gets get it its the a"
    " an one that which who with response answer assistant output option model reply just only also"
    " even still more most much far very too quite rather so often sometimes always bit little way"
    " contains contain contained makes make made includes include included shows showed commits"
    " committed some several many few major minor serious factual obvious any all about by"
)
_TURNS = "less fewer least fewest"
_DENIES = "not never no neither hardly rarely seldom cannot without nor"
_HAS = re.compile(
    r"\b(?:has|have|had|contain\w*|mak\w+|made|with|includ\w+|show\w*|commit\w*|without)\b"
)
_LESS_BEHIND = re.compile(
    r"\W*(?:(?:in|on|at)\s+)?(?:less|least)\s+(?:often|frequently)\b|\W*(?:in\s+)?fewer\s+\w+", re.I
)
_HYPOTHETICAL = re.compile(r"\b(?:would|could|should|might)\s+have\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019]\w+)?")
_MARKS = re.compile(r"[*_`\"'\u2019\u201d)\] \t]*")
_STRONG = "better|best|stronger|superior|right|correct|preferred|preferable|(?:the )?winner"


def said_of(after: str) -> Says:
    """What a text that goes on behind a letter says of it; ``nothing`` where no predicate follows.

    Args:
        after: the rest of the text behind the letter.
    """
    begin = _MARKS.match(after)
    line = after[begin.end() if begin else 0 :].split("\n", 1)[0]
    words: list[str] = []
    at, denied, turned = 0, False, False
    for found in _WORD.finditer(line):
        if line[at : found.start()].strip(' \t*_`"-'):
            break  # a comma or a stop ends what is said
        word, at = found[0].lower().replace("\u2019", "'"), found.end()
        if word in _PRAISE.split():
            return _judged(not (denied or turned) and not _HYPOTHETICAL.search(line[:at]))
        if word in _FAULTS.split() and _HAS.search(line[:at]):
            return _judged(denied or turned, unsure=denied and turned)
        if word in _BLAME.split():
            less = turned or bool(word not in _WEAK.split() and _LESS_BEHIND.match(line, at))
            verb = any(w in ("do", "does", "did", "doesn't", "didn't", "don't") for w in words)
            return _judged(less or (denied and verb), unsure=denied and (less or not verb))
        if word in _DENIES.split() or word.endswith("n't"):
            denied = not denied
        elif word in _TURNS.split():
            turned = not turned
        elif word not in _BETWEEN.split() and not word.endswith("ly"):
            break
        words.append(word)
    return "unclear" if denied or turned else "nothing"


def _judged(good: bool, unsure: bool = False) -> Says:
    return "unclear" if unsure else "good" if good else "bad"


def praises_another(after: str, others: str) -> bool:
    """Whether the sentence goes on to say that another of the answers is better.

    Args:
        others: a pattern of the other letters.
    """
    sentence = re.split(r"[.!?](?:\s|$)|\n", after, maxsplit=1)[0]
    better = rf"(?:\w+ly |much |far )?(?:{_STRONG})\b(?!\s+than\s+(?:{others})\b)"
    return (
        re.search(rf"\b(?:{others})\s+(?:(?:is|was)\s+{better}|wins\b|won\b)", sentence) is not None
    )
