"""What a run notes of the labels that it learns from, and says while it reads them: who was
believed how far, what flags were raised, how far labellers agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gnomon.errors import ConfigError
from gnomon.feedback.adjudication import of_labellers
from gnomon.feedback.agreement import alpha, rating_scales, vote_units
from gnomon.feedback.consensus import Consensus
from gnomon.feedback.flags import flags
from gnomon.feedback.records import Item, Label, Vote
from gnomon.feedback.records import votes as votes_of
from gnomon.report.format import measured
from gnomon.runs.labels import Believed
from gnomon.stats.intervals import Interval

SHOWN = 8
"""Labellers that are named while data is read; the record has them all."""


def believed(
    items: Iterable[Item],
    labels: Iterable[Label],
    found: Consensus | None,
    *,
    votes: Sequence[Vote] | None = None,
) -> Believed | None:
    """The record; None where there is nothing that labellers could agree about.

    Args:
        found: what weighed the votes; None where each counts by itself.
        votes: those in the labels; given where there are votes only.
    """
    items, kept = list(items), of_labellers(labels)
    given = votes_of(kept) if votes is None else list(votes)
    scales, unknown = rating_scales(kept, items)
    if not given and not scales and not unknown:
        return None
    abilities = {} if found is None else found.labellers
    record = Believed(
        method="each" if found is None else found.method,
        votes=len(given),
        labellers=len({vote.labeller for vote in given} | {label.labeller for label in kept}),
        weights={name: ability.accuracy for name, ability in abilities.items()},
        contrary=sum(ability.adversarial for ability in abilities.values()),
        flags=[[s.kind, s.words] for s in flags(items, kept, votes=given) if s.raised],
        notes=[*([] if found is None else found.notes), *unknown],
    )
    try:
        record.alpha = alpha(vote_units(given), "nominal") if given else None
        record.rating_alphas = {name: alpha(own, "interval") for name, own in scales.items()}
    except ConfigError as error:  # the extra is missing
        record.notes.append(str(error))
    return record


def in_words(record: Believed) -> Iterator[str]:
    """The same for people, a line each."""
    yield from (f"Krippendorff's alpha of {k}   {measured(v)}" for k, v in record.alphas.items())
    known = [(name, weight) for name, weight in record.weights.items() if weight is not None]
    if known and record.method != "majority":
        ordered = sorted(known, key=lambda one: one[1].value)
        yield (
            f"{record.votes} votes of {record.labellers} labellers weighed by {record.method}; "
            f"estimated accuracy {spread([weight for _, weight in known])}"
        )
        yield from (f"  {name}: {measured(weight)}" for name, weight in ordered[:SHOWN])
        if len(ordered) > SHOWN:
            yield f"  and {len(ordered) - SHOWN} who are believed further"
    elif record.votes:
        word = "counts by itself" if record.method == "each" else "counts alike"
        yield f"{record.votes} votes of {record.labellers} labellers; each {word}"
    yield from (f"flag: {words}" for *_, words in record.flags)
    yield from (f"note: {note}" for note in record.notes)


def spread(weights: Sequence[Interval]) -> str:
    """The lowest, middle and highest of what labellers were believed to have."""
    values = sorted(weight.value for weight in weights)
    middle = values[len(values) // 2]
    return f"{values[0]:.2f} to {values[-1]:.2f}, median {middle:.2f}"
