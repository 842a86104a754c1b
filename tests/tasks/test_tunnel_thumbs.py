"""A labeller as a judge, and thumbs: both follow the chances that they state."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.build import one_judge
from gnomon.judges.protocol import judged
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Group, Message, Response
from gnomon.tasks.sources import tunnel_groups
from gnomon.tasks.tunnel import generate_prompts, gold_score
from gnomon.tasks.tunnel.thumbs import thumbs


def labeller(**options: object) -> object:
    spec = RewardSpec(builtin="labeller", name="carla", options=dict(options))
    return one_judge(spec, base=Path(), load=lambda name: None)  # type: ignore[arg-type,return-value]


def answers(*texts: str) -> tuple[Response, ...]:
    return tuple(Response((Message("assistant", text),)) for text in texts)


def test_a_labeller_prefers_as_often_as_bradley_and_terry_say() -> None:
    judge = labeller(name="carla", noise=0.5)
    prompts = generate_prompts(1500, seed=1, families=["arithmetic"], belief_rate=0)
    texts = [(f"{p.meta['statement']}.", f"Sure! {p.meta['statement']}.") for p in prompts]
    forward = [Group(p, answers(a, b)) for p, (a, b) in zip(prompts, texts, strict=True)]
    backward = [Group(p, answers(b, a)) for p, (a, b) in zip(prompts, texts, strict=True)]
    wins = [j.scores[1].value for j in judged(judge, forward)]  # type: ignore[arg-type]
    gap = gold_score(prompts[0], texts[0][1]).total - gold_score(prompts[0], texts[0][0]).total
    chance = 1 / (1 + math.exp(-gap / 0.5))
    assert gap == pytest.approx(0.15)
    share = sum(w or 0.0 for w in wins) / len(wins)
    assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / len(wins)))
    assert [j.scores[0].value for j in judged(judge, backward)] == wins  # type: ignore[arg-type]


def test_what_a_labeller_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="careless is a chance"):
        labeller(careless=2.0)
    with pytest.raises(ConfigError, match=r"'labeller'.*length_bais"):
        labeller(length_bais=1.0)


def test_thumbs_without_noise_say_which_side_of_the_bar_an_answer_is_on() -> None:
    for group in thumbs(300, seed=3, bar=0.6, noise=1e-6, careless=0.0):
        (answer,) = group.responses
        assert answer.meta["label"] == (gold_score(group.prompt, answer.text).total > 0.6)


def test_thumbs_are_up_as_often_as_they_state() -> None:
    bar, noise, careless = 0.6, 0.5, 0.2
    groups = thumbs(3000, seed=3, bar=bar, noise=noise, careless=careless)
    totals = [gold_score(g.prompt, g.responses[0].text).total for g in groups]
    chances = [0.1 + 0.8 / (1 + math.exp(-(total - bar) / noise)) for total in totals]
    up = [bool(g.responses[0].meta["label"]) for g in groups]
    spread = math.sqrt(sum(c * (1 - c) for c in chances))
    assert sum(up) == pytest.approx(sum(chances), abs=4 * spread)
    again = thumbs(3000, seed=3, bar=bar, noise=noise, careless=careless)
    assert up == [bool(g.responses[0].meta["label"]) for g in again]


def test_what_thumbs_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="noise has to be above 0"):
        tunnel_groups("thumbs", {"n": 2, "noise": 0})
    with pytest.raises(ConfigError, match="its options are n, seed, families"):
        tunnel_groups("thumbs", {"n": 2, "threshold": 0.5})
