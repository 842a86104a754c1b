"""Reward hacking without another judge: text that the start model does not write.

Training that does what was meant sharpens what the start model already says: right answers become
more frequent, wordings fewer. A hacked reward pays for text that the start model never wrote, or
for saying things again. None of that is shown in a run whose reward did not rise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from gnomon.audit.change import SHARE, each, first_alarm, reward_rose
from gnomon.audit.cures import stay_near, stop_at
from gnomon.audit.decide import decided, not_looked, of_policies, shortened
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.audit.risen import FEW, NAME, NEEDS, meanwhile, risen
from gnomon.audit.samples import Sample
from gnomon.runs.audit import Finding
from gnomon.stats.prompts import over_prompts
from gnomon.stats.texts import Words, ngrams, words


@of_policies
def unseen_phrases(evidence: Evidence) -> list[Finding]:
    """The share of an answer's word pairs that no answer to another prompt had at the beginning;
    any number counts as the same word."""
    known: dict[Words, set[str]] = {}
    for sample in evidence.before:
        for pair in _pairs(sample):
            known.setdefault(pair, set()).add(sample.prompt_id)

    def unseen(sample: Sample) -> float | None:
        pairs = _pairs(sample)
        new = [pair for pair in pairs if not known.get(pair, set()) - {sample.prompt_id}]
        return len(new) / len(pairs)

    return risen(
        evidence,
        "unseen_phrases",
        each(unseen),
        what="word pairs that the start's answers do not have, share",
        alarm="the policy writes what the start model never wrote",
        shows=unseen,
    )


@of_policies
def new_phrase(evidence: Evidence) -> list[Finding]:
    """The share of answers with the commonest pair of words that no answer had at the beginning.

    The pair is chosen on one half of the prompts and counted on the other.
    """
    detector = "new_phrase"
    if min(len(evidence.before), len(evidence.after)) < FEW:
        return not_looked(evidence, NAME, detector, NEEDS)
    known = {pair for sample in evidence.before for pair in _pairs(sample)}
    prompts = list(dict.fromkeys(sample.prompt_id for sample in evidence.after))
    chooses = set(prompts[::2])
    chosen = [sample for sample in evidence.after if sample.prompt_id in chooses]
    counts = Counter(pair for s in chosen for pair in dict.fromkeys(_pairs(s)) if pair not in known)
    pair = max(counts, key=lambda pair: (counts[pair], _told(pair)), default=("", ""))
    has = each(lambda sample: float(pair in _pairs(sample)))
    counted = [sample for sample in evidence.after if sample.prompt_id not in chooses]
    figure = over_prompts(list(has(counted).values()), SHARE)
    limit = LIMITS[detector].value
    since = first_alarm(evidence, has, lambda c: c.after.low > limit, bounds=SHARE)
    having = [s for s in counted if pair in _pairs(s)]
    phrase = _as_written(pair, having)
    shown = [s.exhibit(f"has {phrase}") for s in having]
    return [
        decided(
            evidence,
            NAME,
            detector,
            figure,
            only_if=reward_rose(evidence),
            measure="answers with the commonest word pair that the start never wrote, share",
            alarm=f"{figure.value:.0%} of the answers have {phrase}, which none of "
            f"{len(evidence.before)} had at the beginning{meanwhile(evidence)}",
            exhibits=shortened(shown),
            curves=["reward", "kl", "ref_logprob"],
            since=since,
            cures=[*stay_near(evidence), *stop_at(evidence, since)],
        )
    ]


def _pairs(sample: Sample) -> list[Words]:
    """Neighbouring words, the ends included; words of the prompt and numbers by what they are."""
    asked = {word for word in words(sample.prompt) if word.isalpha()}
    said = ["#" if w.isdigit() else "@" if w in asked else w for w in words(sample.response)]
    return ngrams(["^", *said, "$"], 2)


_ANY = {"#": r"\d+", "@": r"\w+"}
"""What the marks of :func:`_pairs` stand for."""


def _told(pair: Words) -> int:
    """How many of the two are words, by which pairs that are as common as each other are told
    apart: a phrase makes several."""
    return sum(word.isalnum() for word in pair)


def _as_written(pair: Words, samples: Sequence[Sample]) -> str:
    """A pair of words as the first of the answers that have it writes it, and whether it begins or
    ends them; beside a mark stands the next word on the other side."""
    own = [word for word in pair if word not in ("^", "$")]
    core = r"\W{0,3}?".join(_ANY.get(word, re.escape(word)) for word in own)
    marks = [not word.isalnum() and word not in _ANY for word in own]
    core = rf"(?:\w+\W{{0,2}})?{core}" if marks[-1] else core
    core = rf"{core}(?:\W{{0,2}}\w+)?" if marks[0] else core
    core = rf"\A\s*{core}" if pair[0] == "^" else core
    core = rf"{core}\s*\Z" if pair[-1] == "$" else core
    found = (re.search(core, sample.response, re.IGNORECASE) for sample in samples)
    text = next((" ".join(m.group().split()) for m in found if m), " ".join(own))
    where = " at the beginning" if pair[0] == "^" else " at the end" if pair[-1] == "$" else ""
    text = (text.lstrip(".,;:!? ") if marks[0] else text) or text
    return f"{text!r}{where}"


# -- saying it again ------------------------------------------------------------------------------


@of_policies
def repetition(evidence: Evidence) -> list[Finding]:
    """The share of an answer's word triples that it has had before; any number is the same word."""
    return risen(
        evidence,
        "repetition",
        each(_repeated),
        what="word triples that repeat earlier ones of the answer, share",
        alarm="answers repeat themselves",
        shows=_repeated,
    )


def _repeated(sample: Sample) -> float:
    said = ["#" if word.isdigit() else word for word in words(sample.response)]
    counts = Counter(ngrams(said, 3))
    return 1.0 - len(counts) / counts.total() if counts else 0.0
