"""Packing against a construction that treats every response by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.data.batch import microbatches, pack
from gnomon.errors import DataError
from gnomon.records import Comparison, Source, TokenGroup, TokenResponse

ids = st.integers(0, 99)


@st.composite
def a_response(draw: st.DrawFn) -> TokenResponse:
    tokens = draw(st.lists(ids, min_size=1, max_size=6))
    mask = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    return TokenResponse(
        tokens,
        mask,
        token={"advantages": torch.tensor([float(t) / 7 for t in tokens])},
        scalar={"reward": float(sum(tokens))},
    )


@st.composite
def some_groups(draw: st.DrawFn) -> list[TokenGroup]:
    groups = []
    for i in range(draw(st.integers(1, 5))):
        responses = draw(st.lists(a_response(), max_size=4))
        K = len(responses)
        pairs = [(a, b) for a in range(K) for b in range(K) if a != b]
        chosen = draw(st.lists(st.sampled_from(pairs), max_size=4)) if pairs else []
        comparisons = tuple(
            Comparison(a, b, weight=1 + a, margin=float(b), tie=a < b) for a, b in chosen
        )
        prompt = draw(st.lists(ids, min_size=1, max_size=6))
        groups.append(TokenGroup(f"g{i}", prompt, tuple(responses), comparisons, weight=i + 0.5))
    return groups


@settings(max_examples=60, deadline=None)
@given(some_groups())
def test_every_response_is_found_again(groups: list[TokenGroup]) -> None:
    batch = pack(groups)
    assert batch.num_tokens == sum(g.num_tokens() for g in groups)
    assert batch.num_groups == len(groups)
    flat = [(i, k, g, r) for i, g in enumerate(groups) for k, r in enumerate(g.responses, 1)]
    assert batch.num_responses == len(flat)
    for s, (i, k, group, response) in enumerate(flat):
        a, b = batch.response_start[s].item(), batch.response_start[s + 1].item()
        target, source = batch.target_index[a:b], batch.source_index[a:b]
        whole = [*group.prompt_ids, *response.ids]
        P = len(group.prompt_ids)
        # the token at a target follows, in its own conversation, the token at its source
        assert batch.input_ids[target].tolist() == whole[P:]
        assert batch.input_ids[source].tolist() == whole[P - 1 : -1]
        assert batch.position_ids[target].tolist() == list(range(P, len(whole)))
        assert batch.position_ids[source].tolist() == list(range(P - 1, len(whole) - 1))
        assert batch.targets[a:b].tolist() == list(response.ids)
        assert batch.branch[target].tolist() == [k] * len(response.ids)
        assert set(batch.branch[source].tolist()) <= {0, k}
        assert batch.group_of_token[target].tolist() == [i] * len(response.ids)
        assert batch.group_of_token[source].tolist() == [i] * len(response.ids)
        assert batch.response_mask[a:b].tolist() == list(response.mask)
        assert batch.response_of[a:b].tolist() == [s] * len(response.ids)
        assert batch.last_index[s] == target[-1]
        assert batch.lengths[s] == sum(response.mask)
        assert batch.group_of[s] == i
        assert torch.equal(batch.token["advantages"][a:b], response.token["advantages"])
        assert batch.scalar["reward"][s] == response.scalar["reward"]
        assert batch.segments[i].responses[k - 1] == (target[0].item(), target[-1].item() + 1)
    for i, group in enumerate(groups):
        a, b = batch.segments[i].prompt
        assert batch.input_ids[a:b].tolist() == list(group.prompt_ids)
        assert batch.position_ids[a:b].tolist() == list(range(b - a))
        assert not batch.branch[a:b].any()
    assert batch.group_weight.tolist() == [g.weight for g in groups]


@settings(max_examples=40, deadline=None)
@given(some_groups())
def test_comparisons_point_at_the_right_responses(groups: list[TokenGroup]) -> None:
    batch = pack(groups)
    expected = [
        (g.responses[c.better].ids, g.responses[c.worse].ids, c, i)
        for i, g in enumerate(groups)
        for c in g.comparisons
    ]
    assert len(expected) == len(batch.pairs)
    flat = [r for g in groups for r in g.responses]
    for n, (better, worse, c, i) in enumerate(expected):
        assert flat[batch.pairs[n, 0]].ids == better
        assert flat[batch.pairs[n, 1]].ids == worse
        assert batch.pair_weight[n] == c.weight
        assert batch.pair_margin[n] == c.margin
        assert batch.pair_tie[n] == c.tie
        assert batch.pair_group[n] == i


def response(n: int, **values: object) -> TokenResponse:
    return TokenResponse(list(range(n)), [True] * n, **values)  # type: ignore[arg-type]


def test_the_documented_picture() -> None:
    batch = pack(
        [
            TokenGroup("a", [1, 2, 3], (response(3), response(2))),
            TokenGroup("b", [4, 5], (response(3),)),
        ]
    )
    assert batch.group_of_token.tolist() == [0] * 8 + [1] * 5
    assert batch.branch.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 1, 1, 1]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2, 3, 4]
    assert batch.source_index.tolist() == [2, 3, 4, 2, 6, 9, 10, 11]
    assert batch.target_index.tolist() == [3, 4, 5, 6, 7, 10, 11, 12]


def test_dropped_comparisons_have_weight_zero() -> None:
    group = TokenGroup(
        "a", [1], (response(1), response(2)), (Comparison(0, 1, weight=0.0), Comparison(1, 0))
    )
    assert pack([group]).pairs.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ((response(2, scalar={"rank": 1.0}), response(2)), "'bad'.*row 3.*'rank'"),
        ((response(2, token={"old": torch.zeros(2)}), response(2)), "'bad'.*'old'"),
        ((response(2, token={"old": torch.zeros(3)}),), "'bad'.*shape"),
        ((response(2), response(0)), "'bad'.*response 1 has no tokens"),
    ],
)
def test_errors_name_the_group(responses: tuple[TokenResponse, ...], message: str) -> None:
    good = TokenGroup("good", [1], ())
    bad = TokenGroup("bad", [1], responses, source=Source("x.jsonl", 3))
    with pytest.raises(DataError, match=message):
        pack([good, bad])


def test_a_value_missing_from_a_whole_group_is_an_error() -> None:
    a = TokenGroup("a", [1], (response(1, scalar={"reward": 1.0}),))
    b = TokenGroup("b", [1], (response(1),))
    with pytest.raises(DataError, match=r"'b'.*'reward'"):
        pack([a, b])


def test_unknown_comparison_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'a'.*responses 0 and 2"):
        pack([TokenGroup("a", [1], (response(1), response(1)), (Comparison(0, 2),))])


def test_to_moves_every_tensor() -> None:
    group = TokenGroup("a", [1], (response(2, token={"old": torch.zeros(2)}),))
    batch = pack([group])
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert {moved.input_ids.device.type, moved.token["old"].device.type} == {"meta"}
    assert moved.segments == batch.segments


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 40), max_size=25), st.integers(1, 60))
def test_microbatches(sizes: list[int], budget: int) -> None:
    groups = [TokenGroup(str(i), [0], (response(n - 1),)) for i, n in enumerate(sizes)]
    parts = microbatches(groups, budget)
    assert [g for part in parts for g in part] == groups
    loads = [sum(g.num_tokens() for g in part) for part in parts]
    assert all(load <= budget or len(part) == 1 for load, part in zip(loads, parts, strict=True))
    assert parts == microbatches(groups, budget)
    # no split in order, of the same number of runs, has a smaller largest run (by brute force)
    best = {0: {0: 0}}  # runs used -> groups placed -> smallest possible largest run
    for n in range(1, len(parts) + 1):
        best[n] = {
            end: min(
                max(load, sum(sizes[start:end]))
                for start, load in best[n - 1].items()
                if start < end
            )
            for end in range(n, len(sizes) + 1)
            if any(start < end for start in best[n - 1])
        }
    if parts:
        assert max(loads) == best[len(parts)][len(sizes)]
        if max(sizes) <= budget:  # and none with fewer runs fits
            assert len(parts) == 1 or best[len(parts) - 1][len(sizes)] > budget
