"""The formats people have: detecting them, converting between kinds of data, checking groups.

``FORMATS`` is in order of detection: the more telling fields come first (a row with `chosen` and
`messages` is a preference, not a demonstration). Adding a format is one function and one line.

A ranking holds preferences (best against worst), a preference holds a demonstration (the chosen)
and two unpaired judgements, and everything holds a prompt. The other way round nothing is invented:
asking for preferences of a file of demonstrations is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gnomon.data.demonstrations import (
    completion_of,
    parse_alpaca,
    parse_instances,
    parse_messages,
    parse_prompts,
    parse_transcript,
    parse_unpaired,
)
from gnomon.data.fields import (
    CHOSEN,
    COMPLETION,
    LABEL,
    PREFERENCE,
    PROMPT,
    PROMPT_TEXT,
    PROMPT_TURNS,
    REJECTED,
    RESPONSE_A,
    RESPONSE_B,
    RESPONSES,
    ReadOptions,
    Row,
    annotators,
    answered_field,
)
from gnomon.data.preferences import parse_preference, parse_responses, parse_verdict
from gnomon.data.turns import is_transcript
from gnomon.data.values import RowError, as_flag
from gnomon.recipe.schema import Kind
from gnomon.records import Comparison, Group, Prompt, Response, comparisons_from_ranks


@dataclass(frozen=True)
class Format:
    """A way of writing rows: its name, what it can hold, how to recognise it and how to read it."""

    name: str
    parse: Callable[[Row, ReadOptions], list[Group]]
    matches: Callable[[Mapping[str, Any]], bool]
    needs: str
    kinds: tuple[Kind, ...] = ("demonstrations",)

    def kind(self, data: Mapping[str, Any]) -> Kind:
        """What this row holds."""
        return self.kinds[0] if len(self.kinds) == 1 else ranking_kind(data)


def _has(*alternatives: Iterable[str]) -> Callable[[Mapping[str, Any]], bool]:
    """True where, of every list of synonyms, the row has a field."""
    return lambda data: all(any(data.get(n) is not None for n in names) for names in alternatives)


def _is_unpaired(data: Mapping[str, Any]) -> bool:
    """A good/bad flag next to an answer: true, false, 1 or 0.

    Other labels are classes of some task, not judgements; so are 0 and 1 where there is a 2, which
    is why :func:`detect` looks at all rows.
    """
    flag = next((data[n] for n in LABEL if data.get(n) is not None), None)
    answered = _has(PROMPT_TEXT, COMPLETION)(data) or _has(PROMPT_TURNS)(data)
    return as_flag(flag) is not None and answered


def is_verdict(data: Mapping[str, Any]) -> bool:
    """Two responses, and a verdict on them or the verdicts of several labellers."""
    judged = _has((*PREFERENCE, "label"))(data) or bool(annotators(data))
    return judged and _has(RESPONSE_A, RESPONSE_B)(data)


def ranking_kind(
    data: Mapping[str, Any],
) -> Literal["demonstrations", "preferences", "rankings", "unpaired"]:
    """One response is a demonstration (or, with a label, a judgement); several are a ranking."""
    items = next((data[n] for n in RESPONSES if data.get(n) is not None), None)
    if isinstance(items, list) and len(items) == 1:
        labelled = isinstance(items[0], Mapping) and items[0].get("label") is not None
        return "unpaired" if labelled else "demonstrations"
    return "preferences" if isinstance(items, list) and len(items) == 2 else "rankings"


def _is_transcript_pair(data: Mapping[str, Any]) -> bool:
    return _has(CHOSEN, REJECTED)(data) and any(is_transcript(data.get(n)) for n in CHOSEN)


def _answered(*fields: str) -> Callable[[Mapping[str, Any]], bool]:
    """True where the first conversation that has an assistant turn is in one of these fields."""
    return lambda data: answered_field(data) in fields


_PAIR: tuple[Kind, ...] = ("preferences",)
_QUESTION, _ANSWER = ("question",), ("answer",)
_ANY: tuple[Kind, ...] = ("rankings", "preferences", "unpaired", "demonstrations")

FORMATS: tuple[Format, ...] = (
    Format("gnomon", parse_responses, _has(RESPONSES), "prompt, responses", _ANY),
    Format(
        "verdict", parse_verdict, is_verdict, "prompt, response_a, response_b, preference", _PAIR
    ),
    Format("hh-rlhf", parse_preference, _is_transcript_pair, "chosen, rejected", _PAIR),
    Format(
        "chosen-rejected",
        parse_preference,
        _has(CHOSEN, REJECTED),
        "prompt, chosen, rejected",
        _PAIR,
    ),
    Format("kto", parse_unpaired, _is_unpaired, "prompt, completion, label", ("unpaired",)),
    Format("sharegpt", parse_messages, _answered("conversations"), "conversations"),
    Format("messages", parse_messages, _answered(*PROMPT_TURNS), "messages"),
    Format("alpaca", parse_alpaca, _has(["instruction"], ["output"]), "instruction, output"),
    Format(
        "self-instruct",
        parse_instances,
        _has(["instruction"], ["instances"]),
        "instruction, instances",
    ),
    Format(
        "question-answer",
        completion_of(_QUESTION, _ANSWER),
        _has(_QUESTION, _ANSWER),
        "question, answer",
    ),
    Format(
        "prompt-completion",
        completion_of(PROMPT, COMPLETION),
        _has(PROMPT, COMPLETION),
        "prompt, completion",
    ),
    Format("text", parse_transcript, _has(["text"]), "text"),
    Format("prompts", parse_prompts, _has(PROMPT), "prompt", ("prompts",)),
)

BY_NAME = {f.name: f for f in FORMATS}


def detect(rows: Sequence[Mapping[str, Any]]) -> tuple[Format, Kind] | None:
    """The format and kind of most of these rows, or None if no row matches any."""
    known = [f for f in FORMATS if f.name != "kto" or _labels_are_flags(rows)]
    votes: dict[str, Counter[Kind]] = {}
    for data in rows:
        found = next((f for f in known if f.matches(data)), None)
        if found is not None:
            votes.setdefault(found.name, Counter())[found.kind(data)] += 1
    if not votes:
        return None
    name = max(votes, key=lambda one: votes[one].total())
    return BY_NAME[name], commonest(votes[name])


def commonest(kinds: Counter[Kind]) -> Kind:
    """The kind of most rows; of pairs and longer rankings together, rankings: as pairs the longer
    ones would lose what is between their best and their worst."""
    kind = kinds.most_common(1)[0][0]
    return "rankings" if kind == "preferences" and kinds["rankings"] else kind


def _labels_are_flags(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every label means good or bad: one that is 2, or a word, makes 0 and 1 classes."""
    labels = [data[n] for data in rows for n in LABEL if data.get(n) is not None]
    return all(as_flag(label) is not None for label in labels)


#: Which kinds a kind can be read as.
READABLE_AS: dict[str, tuple[Kind, ...]] = {
    "demonstrations": ("demonstrations", "prompts"),
    "preferences": ("preferences", "rankings", "demonstrations", "unpaired", "prompts"),
    "rankings": ("rankings", "preferences", "demonstrations", "unpaired", "prompts"),
    "unpaired": ("unpaired", "demonstrations", "prompts"),
    "prompts": ("prompts",),
}


def convert(group: Group, want: Kind, options: ReadOptions) -> list[Group]:
    """Read a group as another kind. One group becomes one, or (unpaired) one for each response.

    Raises:
        RowError: the group does not hold what is wanted.
    """
    if want == "prompts":
        return [_as_prompt(group)]
    if not group.responses:
        raise RowError("no response", "this kind of data needs answers")
    if want == "demonstrations":
        return [_as_demonstration(group)]
    if want == "unpaired":
        return _as_unpaired(group, options)
    if len(group.responses) < 2:
        raise RowError("only one response", "a comparison needs two or more")
    return [_as_pair(group)] if want == "preferences" else [group]


def _as_prompt(group: Group) -> Group:
    """The best answer stays in meta as ``reference``, where a verifier can find it."""
    prompt = group.prompt
    if not group.responses:
        return group
    best = best_response(group)
    if prompt.text == "" and not prompt.messages:  # a document: its text is the prompt
        return Group(replace(prompt, text=best.text), weight=group.weight)
    meta = {"reference": best.text, **prompt.meta}
    return Group(replace(prompt, meta=meta), weight=group.weight)


def _as_demonstration(group: Group) -> Group:
    best = best_response(group)
    if best.meta.get("label") is False:
        raise RowError("labelled bad", "only good answers are demonstrations")
    return replace(group, responses=(best,), comparisons=())


def best_response(group: Group) -> Response:
    """The response that wins most: lowest rank, or most wins less losses among comparisons."""
    standing = _standing(group)
    return group.responses[standing.index(max(standing))]


def _standing(group: Group) -> list[float]:
    """A score for each response: its negated rank or, where some have none, its net wins."""
    ranks = [-r.rank for r in group.responses if r.rank is not None]
    return ranks if len(ranks) == len(group.responses) else net_wins(group)


def net_wins(group: Group) -> list[float]:
    """For each response, the strength of the judgements it wins less that of those it loses."""
    scores = [0.0] * len(group.responses)
    for c in judgements(group):
        if not c.tie:
            scores[c.better] += c.strength
            scores[c.worse] -= c.strength
    return scores


def _as_pair(group: Group) -> Group:
    """The best response against the worst (a pair stays as it is, ties and margins included)."""
    if len(group.responses) == 2:
        return group if group.comparisons else replace(group, comparisons=judgements(group))
    scores = _standing(group)
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if scores[best] == scores[worst]:
        raise RowError("all responses are rated alike", "no pair of better and worse can be made")
    pair = (group.responses[best], group.responses[worst])
    direct = (c for c in judgements(group) if (c.better, c.worse) == (best, worst) and not c.tie)
    said = replace(next(direct, Comparison(0, 1)), better=0, worse=1)
    return replace(group, responses=pair, comparisons=(said,))


def _as_unpaired(group: Group, options: ReadOptions) -> list[Group]:
    weight = group.weight
    if all("label" in r.meta for r in group.responses):
        labels = [bool(r.meta["label"]) for r in group.responses]
    elif all("score" in r.meta for r in group.responses):
        if options.good_from is None:
            raise RowError("scores, but no threshold", "set good_from: the lowest good score")
        labels = [r.meta["score"] >= options.good_from for r in group.responses]
    elif judgements(group):  # of a ranking, only its ends are good or bad
        group = _as_pair(group)
        net = net_wins(group)
        if net[0] == net[1]:
            raise RowError("a tie", "neither answer is good or bad by it")
        labels = [wins > 0 for wins in net]
        # labellers who disagree or doubt count for less: 1 if all are sure
        weight *= abs(net[0]) / len(group.comparisons)
    else:
        raise RowError("nothing says which responses are good", "give each a label or a score")
    if len(labels) == 1:
        only = group.responses[0]
        labelled = replace(only, meta={**only.meta, "label": labels[0]})
        return [replace(group, responses=(labelled,), comparisons=())]
    return [
        Group(
            replace(group.prompt, id=f"{group.prompt.id}/{response.id or i}"),
            (replace(response, rank=None, meta={**response.meta, "label": label}),),
            weight=weight,
        )
        for i, (response, label) in enumerate(zip(group.responses, labels, strict=True))
    ]


def judgements(group: Group) -> tuple[Comparison, ...]:
    """The group's comparisons: those given, else all that its ranks imply, else none."""
    if group.comparisons:
        return group.comparisons
    ranks = [r.rank for r in group.responses if r.rank is not None]
    return comparisons_from_ranks(ranks) if len(ranks) == len(group.responses) > 1 else ()


def check(group: Group) -> None:
    """Check what must hold of every group, whatever its format.

    Raises:
        RowError: empty prompt or response, turns in an impossible order, a better and a worse
            answer that are the same.
    """
    _check_prompt(group.prompt, document=len(group.responses) == 1)
    for response in group.responses:
        if not response.messages or response.messages[0].role != "assistant":
            raise RowError("a response does not open with the assistant", "check the roles")
        if not response.text.strip():
            which = f" ({response.id})" if response.id else ""
            raise RowError(f"empty response{which}", "fill it in or remove the row")
        _check_turns(response)
    for c in judgements(group):
        if not c.tie and _words(group.responses[c.better]) == _words(group.responses[c.worse]):
            raise RowError(
                "chosen and rejected are the same", "a pair needs two different answers, or a tie"
            )


def _check_turns(response: Response) -> None:
    """Refuse empty turns that are trained on: they would teach to end at once."""
    flags = response.meta.get("train") or (True,) * len(response.messages)
    for message, trained in zip(response.messages, flags, strict=True):
        if message.role == "assistant" and trained and not message.content.strip():
            raise RowError(
                "an empty assistant turn, which would teach the model to say nothing",
                "fill it in, remove it, or switch the turn off (weight: 0)",
            )


def _words(response: Response) -> list[tuple[str, str]]:
    return [(m.role, m.content.strip()) for m in response.messages]


def _check_prompt(prompt: Prompt, document: bool) -> None:
    if prompt.text is not None:
        if not prompt.text.strip() and not (document and prompt.text == ""):
            raise RowError("empty prompt", "fill it in or remove the row")
        return
    if not prompt.messages:
        raise RowError("no turn before the assistant's first", "a response needs a prompt")
    if prompt.messages[-1].role == "assistant":
        raise RowError("the prompt ends with an assistant turn", "end it with a user or tool turn")
    if not any(m.content.strip() for m in prompt.messages if m.role != "system") and not (
        prompt.messages[-1].role == "system" and prompt.messages[-1].content.strip()
    ):
        raise RowError("empty prompt", "fill it in or remove the row")
