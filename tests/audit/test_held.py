"""Whether anything holds a policy that optimises a learned reward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gnomon.audit.evidence import Evidence
from gnomon.audit.held import held
from gnomon.runs.audit import Finding
from gnomon.runs.records import StageInfo

LEARNED, PROGRAM = {"model": "rm"}, {"builtin": "correct"}


def said(
    prices: list[float],
    *,
    reward: dict[str, Any] = LEARNED,
    kl: float = 1.0,
    status: str = "done",
    grows: bool = False,
    made: int = 20,
    planned: int | None = None,
    train: dict[str, Any] | None = None,
) -> Finding | None:
    """What is said of a policy so many nats from its start per token, in answers of ten tokens; in
    the end, where it ``grows``, after so many iterations ``made`` of those that are planned."""
    n = max(len(prices), made)
    steps = np.arange(2.0, 2 * n + 2, 2)
    drawn = np.random.default_rng(0).normal(1, 0.001, n)
    drawn *= np.linspace(1 / n, 1, n) if grows else 1
    metrics = {"step": steps, "kl": 10 * kl * drawn, "length": np.full(n, 10.0)}
    metrics["iteration"] = np.arange(1.0, n + 1)
    if prices:
        metrics["kl_price"] = np.array([*prices, *[prices[-1]] * (n - len(prices))])
    settings = {"beta": 0.01 if any(prices) else 0.0}
    evidence = Evidence(
        "run", "ppo",
        spec={"name": "ppo", "reward": [reward], "settings": settings, "train": train or {}},
        info=StageInfo(algorithm="ppo", status=status, planned_iterations=planned),
        metrics=metrics,
    )  # fmt: skip
    found = held(evidence)
    return found[0] if found else None


@pytest.mark.parametrize(("price", "kl"), [(0.0, 0.1), (0.02, 0.1), (0.05, 1.0)])
def test_a_learned_reward_and_nothing_that_holds_is_something_to_watch(
    price: float, kl: float
) -> None:
    """Of a policy that has not gone yet, or that little holds."""
    found = said([price], kl=kl, status="running")
    assert found is not None
    assert found.is_to_watch
    assert (found.name, found.since) == ("drift", 2.0)
    assert "a learned reward" in found.text
    assert "will go on" not in found.text
    assert found.cures[0].startswith("ppo.settings.beta=0.0")


@pytest.mark.parametrize("price", [0.0, 0.02])
@pytest.mark.parametrize("status", ["running", "done"])
def test_it_is_an_alarm_once_a_policy_that_next_to_nothing_holds_has_gone(
    price: float, status: str
) -> None:
    found = said([price], kl=0.25, status=status)
    assert found is not None
    assert found.status == "alarm"
    assert "it is 0.25 nats per token from its start already" in found.text
    assert found.cures == ["ppo.settings.beta=0.05"]
    unsure = said([0.01, 0.05, 0.01, 0.05, 0.01], kl=0.25, status="running")
    assert unsure is not None
    assert unsure.is_to_watch  # what a nat costs may be more


def test_the_alarm_says_since_when_and_from_when_it_was_to_be_watched() -> None:
    found = said([0.02], kl=0.24, grows=True)
    assert found is not None
    assert found.status == "alarm"
    assert (found.since, found.watched) == (26.0, 2.0)  # 0.24 x 13 of 20 is beyond 0.15


def test_it_is_an_alarm_as_soon_as_the_policy_is_on_its_way() -> None:
    """At 0.02 nats per token after four of 60 iterations it is near yet, and heads for 0.4."""
    found = said([0.02], kl=0.03, grows=True, made=4, planned=60, status="running")
    assert found is not None
    assert (found.status, found.since, found.watched) == ("alarm", 4.0, 2.0)
    assert "after the 60 iterations that are planned" in found.text
    assert found.cures == ["ppo.settings.beta=0.05"]
    by_recipe = said([0.02], kl=0.03, grows=True, made=4, train={"steps": 60}, status="running")
    assert by_recipe is not None
    assert by_recipe.status == "alarm"


@pytest.mark.parametrize(
    ("price", "kl", "planned", "status"),
    [
        (0.02, 0.03, 20, "running"),  # it will be over before it is far
        (0.02, 0.003, 60, "running"),  # as a policy at a low rate
        (0.02, 0.03, None, "running"),  # nobody knows how much is to come
        (0.04, 0.03, 60, "running"),  # a little does hold it
        (0.02, 0.03, 60, "stopped"),  # it goes nowhere unless it is resumed
    ],
)
def test_a_policy_that_is_not_shown_to_go_far_is_to_watch(
    price: float, kl: float, planned: int | None, status: str
) -> None:
    found = said([price], kl=kl, grows=True, made=4, planned=planned, status=status)
    assert found is not None
    assert found.is_to_watch


def test_a_finished_policy_is_where_it_is_whatever_its_pace_was() -> None:
    found = said([0.02], kl=0.1, planned=60, status="done")
    assert found is not None
    assert not found.is_to_watch
    assert found.status != "alarm"


def test_it_is_no_more_to_watch_once_a_finished_policy_is_near_its_start() -> None:
    for status, watched in (("done", False), ("running", True)):
        found = said([0.02], kl=0.1, status=status)
        assert found is not None
        assert found.is_to_watch == watched


def test_what_holds_and_what_needs_no_hold() -> None:
    sound = said([0.2])
    assert sound is not None
    assert sound.status == "clear"
    wide = said([0.01, 0.2, 0.03, 0.1, 0.02])  # the price of a reward that is hardly known yet
    assert wide is not None
    assert wide.status == "unclear"
    assert not wide.is_to_watch
    assert said([0.0], reward=PROGRAM) is None
    unknown = said([])
    assert unknown is not None
    assert unknown.status == "not_looked"
