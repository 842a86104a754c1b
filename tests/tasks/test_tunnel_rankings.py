"""Rankings of written answers: in the order of the true preference where the labeller is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnomon.errors import ConfigError
from gnomon.recipe.schema import DataSpec
from gnomon.stages.sources import DataReport, read_specs
from gnomon.tasks.sources import tunnel_groups
from gnomon.tasks.tunnel import gold_score


def test_an_exact_labeller_ranks_by_the_true_preference() -> None:
    groups = tunnel_groups("rankings", {"n": 60, "seed": 3, "answers": 4, "noise": 0})
    for group in groups:
        texts = [r.text for r in group.responses]
        gold = [gold_score(group.prompt, text).total for text in texts]
        assert gold == sorted(gold, reverse=True)
        assert len(set(texts)) == len(texts) <= 4
        assert group.responses[0].rank == 1
    assert sum(len(g.responses) == 4 for g in groups) > 50


def test_noise_and_carelessness_show() -> None:
    def ordered(**labeller: float) -> float:
        groups = tunnel_groups("rankings", {"n": 200, "seed": 3, "answers": 2, **labeller})
        pairs = [[gold_score(g.prompt, r.text).total for r in g.responses] for g in groups]
        return sum(a >= b for a, b in pairs) / len(pairs)

    assert ordered(noise=0) == 1.0
    assert 0.8 < ordered(noise=0.2) < 1.0
    assert 0.4 < ordered(careless=1.0) < 0.75  # a coin; ties count as ordered


def test_seeds_and_splits() -> None:
    def asked(seed: int) -> list[str]:
        groups = tunnel_groups("rankings", {"n": 20, "seed": seed})
        return [g.prompt.messages[0].content for g in groups]

    assert asked(1) == asked(1) != asked(2)
    demos = tunnel_groups("demonstrations", {"n": 20, "seed": 1})
    assert asked(1) == [g.prompt.messages[0].content for g in demos]


@pytest.mark.parametrize(("kind", "responses"), [("rankings", 3), ("demonstrations", 1)])
def test_a_stage_reads_them_as_what_it_needs(kind: str, responses: int) -> None:
    spec = DataSpec(path="tunnel:rankings", options={"n": 5, "answers": 3})
    found = read_specs([spec], base=Path(), stage_groups=Path, kind=kind, report=DataReport())
    assert [len(g.responses) for g in found] == [responses] * 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 3, "answers": 1}, "compares two or more"),
        ({"n": 3, "nois": 0.1}, "nois"),
        ({"n": 3, "careless": 2}, "careless is a chance"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tunnel_groups("rankings", options)
