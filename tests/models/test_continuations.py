"""Continuations scored with shared prefixes against each text alone through the model's forward."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel
from zoo import FAMILIES, V, model

from gnomon.models import continuations
from gnomon.models.continuations import Continuation, Scored, computed_tokens, score
from gnomon.models.packed import PackedForward


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ids(draw: torch.Generator, n: int) -> list[int]:
    found: list[int] = torch.randint(3, V, (n,), generator=draw).tolist()
    return found


def questions(seed: int = 0) -> list[Continuation]:
    """Two sets of shots with questions of several choices, and texts that share nothing."""
    draw = draws(seed)
    items = []
    for shots in (ids(draw, 30), ids(draw, 17)):
        for n in (5, 1, 9, 5):
            question = [*shots, *ids(draw, n)]
            items += [Continuation(question, ids(draw, k)) for k in (1, 1, 4, 7)]
        items.append(Continuation(shots, ids(draw, 3)))  # a context that others begin with
    items += [Continuation(ids(draw, n), ids(draw, 6)) for n in (1, 12)]
    items.append(items[3])  # asked twice
    order = torch.randperm(len(items), generator=draw).tolist()
    return [items[i] for i in order]


def alone(whole: PreTrainedModel, item: Continuation) -> Scored:
    text = torch.tensor([[*item.context, *item.tokens]])
    with torch.no_grad():
        logits = whole(input_ids=text, use_cache=False).logits[0, :-1].double()
    rows = logits.log_softmax(-1)[-len(item.tokens) :]
    targets = torch.tensor(list(item.tokens))
    right = bool((rows.argmax(-1) == targets).all())
    return Scored(float(rows.gather(1, targets[:, None]).sum()), right)


def scores(whole: PreTrainedModel, items: list[Continuation], **kwargs: int) -> list[Scored]:
    found: dict[int, Scored] = {}
    for part in score(PackedForward(whole), items, **kwargs):
        assert not set(part) & set(found)
        found |= part
    return [found[i] for i in range(len(items))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pass_tokens", [4096, 60, 1])
def test_scores_are_those_of_each_text_alone(family: str, pass_tokens: int) -> None:
    whole = model(family).double()
    items = questions()
    for found, item in zip(scores(whole, items, pass_tokens=pass_tokens), items, strict=True):
        wanted = alone(whole, item)
        assert found.logprob == pytest.approx(wanted.logprob, abs=1e-9)
        assert found.greedy == wanted.greedy


def test_the_likeliest_continuation_is_greedy() -> None:
    whole = model()
    context = ids(draws(3), 9)
    text = list(context)
    with torch.no_grad():
        for _ in range(3):
            text.append(int(whole(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
    best = text[len(context) :]
    items = [Continuation(context, best), Continuation(context, [*best[:-1], (best[-1] + 1) % V])]
    assert [s.greedy for s in scores(whole, items)] == [True, False]


def test_models_that_cannot_share_get_the_same_scores() -> None:
    whole = model().double()
    packed = PackedForward(whole)
    packed.shares_prefix = False
    items = questions()
    found: dict[int, Scored] = {}
    for part in score(packed, items, pass_tokens=100):
        found |= part
    for i, wanted in enumerate(scores(whole, items)):
        assert found[i].logprob == pytest.approx(wanted.logprob, abs=1e-9)


def test_shared_parts_are_computed_once() -> None:
    draw = draws(1)
    shots = ids(draw, 40)
    asked = [[*shots, *ids(draw, 5)] for _ in range(6)]
    items = [Continuation(q, [*ids(draw, 2)]) for q in asked for _ in range(4)]
    # one copy of the shots; each question once; of each choice all but the last token
    assert computed_tokens(items) == 40 + 6 * 5 + 24 * 1
    # the choices are single tokens: the question's last token predicts them all
    single = [Continuation(q, ids(draw, 1)) for q in asked for _ in range(4)]
    assert computed_tokens(single) == 40 + 6 * 5


def test_long_continuations_of_one_context_get_branches_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(continuations, "_BRANCH_TOKENS", 4)
    draw = draws(2)
    context = ids(draw, 30)
    items = [Continuation(context, ids(draw, 6)) for _ in range(3)]
    assert computed_tokens(items) == 29 + 3 * 1 + 3 * 5
    whole = model().double()
    for found, item in zip(scores(whole, items), items, strict=True):
        assert found.logprob == pytest.approx(alone(whole, item).logprob, abs=1e-9)


@pytest.mark.parametrize("item", [Continuation([], [3]), Continuation([3], [])])
def test_empty_texts_are_refused(item: Continuation) -> None:
    with pytest.raises(ValueError, match="item 1 has an empty"):
        list(score(PackedForward(model()), [Continuation([4], [4]), item]))
