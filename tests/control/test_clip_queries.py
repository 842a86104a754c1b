"""Which clips are asked about, what a simulated labeller says, and people who answer later."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from point_world import POINT, STEPS, played

from gnomon.algorithms.control_settings import ClipLabellerSpec, ControlSettings
from gnomon.control.queries import Desk, choose, schedule, simulated_choice
from gnomon.control.reward_nets import RewardNets, clip_returns
from gnomon.errors import Pending
from gnomon.feedback.opening import open_store
from gnomon.feedback.records import Label


def settings(**given) -> ControlSettings:
    return ControlSettings(environment=POINT, clip_steps=6, comparisons=8, **given)


def test_the_rate_of_questions_falls_and_none_is_lost():
    for comparisons, rounds, first in ((700, 9, 0.25), (8, 5, 0.01), (1400, 1, 0.25), (33, 20, 1)):
        asked = schedule(comparisons, rounds, first)
        assert len(asked) == rounds
        assert sum(asked) == comparisons
        assert asked[0] >= 1
        assert min(asked) >= 0
        assert schedule(comparisons, rounds, 0.01)[0] >= 1  # else there is nothing to fit
        assert all(a >= b - 1 for a, b in pairwise(asked[1:]))


def test_what_the_nets_disagree_about_is_asked():
    kept, nets = played(6), RewardNets(2, 3, seed=1)
    inputs = torch.from_numpy(kept.inputs())
    for fitted, better in ((0.0, False), (1.0, True)):
        nets.fitted.fill_(fitted)
        rng = np.random.default_rng(0)
        pairs = choose(nets, inputs, kept, 2, 10, 6, 10, rng)
        doubt = disagreement(nets, inputs, pairs)
        drawn = disagreement(nets, inputs, choose(nets, inputs, kept, 2, 400, 6, 1, rng))
        assert (doubt.mean() > np.quantile(drawn, 0.8)) == better
        assert all(a >= 4 * STEPS and a != b for a, b in pairs)  # the first is of the newest
        assert all(i % STEPS <= STEPS - 6 for pair in pairs for i in pair)  # within an episode


def test_no_pair_is_asked_about_twice():
    kept, nets = played(1), RewardNets(2, 3, seed=1)
    inputs, asked = torch.from_numpy(kept.inputs()), []
    for fitted in (0.0, 1.0, 1.0):  # 6 clips of 15 steps, so 15 pairs
        nets.fitted.fill_(fitted)
        asked += choose(nets, inputs, kept, 1, 6, 15, 10, np.random.default_rng(0), asked)
    assert len({frozenset(pair) for pair in asked}) == len(asked) == 15


def disagreement(nets, inputs, pairs):
    starts = torch.tensor(pairs)
    rewards = nets.chunked(inputs)
    gap = clip_returns(rewards, starts[:, 0], 6) - clip_returns(rewards, starts[:, 1], 6)
    return gap.sigmoid().numpy().var(0)


@pytest.mark.parametrize(("error", "gap"), [(0.0, 1.0), (0.1, 3.0), (1.0, 50.0), (0.1, -800.0)])
def test_a_simulated_labeller_errs_as_it_is_told(error, gap):
    spec, rng = ClipLabellerSpec(rationality=0.8, error=error), np.random.default_rng(0)
    share = np.mean([simulated_choice(gap, 0.0, spec, rng) for _ in range(4000)])
    wanted = (1 - error) / (1 + math.exp(-0.8 * gap)) + error / 2
    assert share == pytest.approx(wanted, abs=0.03)


def test_equal_clips_are_called_equal_but_for_the_coin():
    spec, rng = ClipLabellerSpec(error=0.1), np.random.default_rng(0)
    said = [simulated_choice(2.0, 2.0, spec, rng) for _ in range(2000)]
    assert np.mean([x is None for x in said]) == pytest.approx(0.9, abs=0.03)


def test_a_simulated_tie_is_half_a_win(tmp_path):
    kept = played()
    kept.rewards[:] = 1.0
    desk = Desk(str(tmp_path / "labels.db"), "run/stage", settings(labeller={"error": 0}), seed=1)
    assert desk.ask(kept, [(0, 20), (5, 22)], 0) == [0.5, 0.5]


def test_comparisons_are_in_the_store_with_who_and_what_they_cost(tmp_path):
    kept, where = played(), str(tmp_path / "labels.db")
    pairs = [(0, 3 * STEPS - 6), (20, 45), (5, 22)]
    exact = settings(labeller={"error": 0, "rationality": 1000, "seconds": 4})
    desk = Desk(where, "run/stage", exact, seed=1)
    said = desk.ask(kept, pairs, 0)
    true = [kept.rewards[a : a + 6].sum() > kept.rewards[b : b + 6].sum() for a, b in pairs]
    assert said == [float(x) for x in true]
    assert desk.ask(kept, pairs, 0) == said  # as where a killed run asks again
    with open_store(where) as store:
        labels = list(store.labels("run/stage"))
        assert [(x.labeller, x.cost.seconds) for x in labels] == [("simulated", 4.0)] * 3
        assert len(list(store.items("run/stage"))) == 3


def test_people_are_waited_for_and_believed(tmp_path):
    kept, where = played(), str(tmp_path / "labels.db")
    pairs = [(0, 50), (20, 45), (5, 22)]
    desk = Desk(where, "pilot", settings(labeller={"kind": "people"}), seed=1)
    with pytest.raises(Pending, match="3 of 3 pairs of clips wait for people") as waiting:
        desk.ask(kept, pairs, 0)
    assert "gnomon label clips" in str(waiting.value)
    with open_store(where) as store:
        store.add_labeller("kim")
        items = list(store.items("pilot"))
        first = desk._clips(kept, pairs[0])[0]
        ranks = (1.0, 2.0) if items[0].responses[0].text == first else (2.0, 1.0)
        store.add_labels([
            Label("a", items[0].id, "kim", "ranking", ranks=ranks),
            Label("b", items[1].id, "kim", "ranking", ranks=(1.0, 1.0)),
        ])  # fmt: skip
    assert waiting.value.left() == "1 comparisons to give"
    with open_store(where) as store:
        store.add_labels([Label("c", items[2].id, "kim", "skip")])
    assert desk.ask(kept, pairs, 0) == [1.0, 0.5, None]


def test_what_people_are_told_to_type_names_the_database_without_its_password():
    desk = Desk("postgresql://ann:secret@host/labels", "c", settings(), 0)
    said = desk._request(1, 2, 0)
    assert "gnomon label serve postgresql://ann:***@host/labels" in said
    assert "secret" not in said
