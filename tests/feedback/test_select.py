"""Which items to ask about next."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gnomon.cli.label_next import next_items
from gnomon.cli.main import app
from gnomon.errors import ConfigError
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.records import Item, Label
from gnomon.feedback.select import (
    METHODS,
    Candidates,
    candidates,
    choose,
    disagreement,
    entropy,
    posterior_entropy,
    uncertainty,
)
from gnomon.feedback.store import Campaign, Store
from gnomon.records import Message, Prompt, Response


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def made(margins: list[list[float]], features: list[list[float]] | None = None) -> Candidates:
    n = len(margins)
    at = np.array(features if features is not None else [[float(i), 0.0] for i in range(n)])
    return Candidates(tuple(f"i{i}" for i in range(n)), np.array(margins), np.arange(n), at)


def test_uncertainty_and_disagreement_by_hand() -> None:
    found = made([[0.0, 0.0], [logit(0.9), logit(0.1)], [logit(0.9), logit(0.9)]])
    h = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert uncertainty(found) == pytest.approx([1.0, 1.0, h])
    # members that agree have nothing to settle, however unsure they are
    assert disagreement(found) == pytest.approx([0.0, 1.0 - h, 0.0], abs=1e-12)
    assert entropy(np.array([0.0, 0.25, 1.0])) == pytest.approx([0.0, 0.8112781, 0.0])


def test_an_items_pairs_are_averaged() -> None:
    two = Candidates(("a", "b"), np.array([[0.0], [50.0], [0.0]]), np.array([0, 0, 1]), np.eye(2))
    assert uncertainty(two) == pytest.approx([0.5, 1.0])


def test_each_method_takes_what_it_should() -> None:
    margins = [[3.0, -3.0], [0.01, 0.0], [4.0, 4.0], [-3.0, 3.0], [5.0, 5.0], [2.0, 2.5]]
    found = made(margins)
    assert set(choose(found, 2, "disagreement")) == {0, 3}
    assert choose(found, 3, "uncertainty")[2] != 4
    assert 1 in choose(found, 3, "uncertainty")
    for by in METHODS:
        picked = choose(found, 4, by)  # type: ignore[arg-type]
        assert len(set(picked)) == 4
        assert picked == choose(found, 4, by)  # type: ignore[arg-type]
        assert len(choose(found, 100, by)) == 6  # type: ignore[arg-type]


def test_diversity_covers_clusters_that_disagreement_does_not() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(5) * 100.0, 40, axis=0)
    features = centres + rng.normal(size=centres.shape)
    margins = [[3.0, -3.0] if i < 40 else [2.0, 1.9] for i in range(200)]  # all doubt in one place
    found = made(margins, features.tolist())
    places = {i // 40 for i in choose(found, 10, "disagreement")}
    assert places == {0}
    assert {i // 40 for i in choose(found, 10, "diversity")} == {0, 1, 2, 3, 4}
    mixed = [i // 40 for i in choose(found, 10, "both")]
    assert mixed.count(0) > 2 or len(set(mixed)) > 1


def test_items_that_look_the_same_are_still_chosen() -> None:
    found = made([[1.0, 0.0]] * 4, [[0.0, 0.0]] * 4)
    assert sorted(choose(found, 3, "both")) == sorted(set(choose(found, 3, "both")))


def test_one_member_cannot_disagree() -> None:
    with pytest.raises(ConfigError, match="members: 4"):
        choose(made([[1.0], [2.0]]), 1, "both")
    with pytest.raises(ConfigError, match="chosen by"):
        choose(made([[1.0, 2.0]]), 1, "vibes")  # type: ignore[arg-type]


def test_the_least_sure_posterior_first() -> None:
    order, bits = posterior_entropy(
        [("a", 0.99), ("b", 0.5), ("c", 0.8), ("a", 0.9), ("x", 0.5)], ["a", "b", "c", "d"]
    )
    assert order == ["b", "c", "a"]
    assert bits[0] == 1.0


# -- a store and a model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small reward model of three heads, untrained."""
    import torch

    from gnomon.models.heads import ScalarHead
    from gnomon.models.load import load_causal_lm
    from gnomon.models.roles import Role, Trunk
    from gnomon.models.save import save_reward_model

    torch.manual_seed(0)
    trunk = Trunk.from_loaded(load_causal_lm("tunnel"))
    head = ScalarHead(trunk.hidden_size, outputs=3)
    torch.nn.init.normal_(next(iter(head.parameters())), std=0.1)
    role = Role("reward_model", trunk, head=head)
    return save_reward_model(tmp_path_factory.mktemp("rm") / "model", role)


def items(n: int, k: int = 2) -> list[Item]:
    out = []
    for i in range(n):
        prompt = Prompt(f"p{i}", (Message("user", f"Compute {i} x 2."),))
        texts = [f"It is {i * 2 + j}." for j in range(k)]
        out.append(
            Item(f"i{i}", prompt, tuple(Response((Message("assistant", t),)) for t in texts), "c")
        )
    return out


def test_a_model_is_read_as_a_judge_reads_it(ensemble: Path) -> None:
    from gnomon.judges.learned import LearnedReward, text_encoding
    from gnomon.models.save import load_reward_model
    from gnomon.records import Group

    asked = [*items(3), *items(4, k=3)[3:], *items(5, k=1)[4:]]
    found = candidates(ensemble, asked)
    loaded = load_reward_model(ensemble)
    judge = LearnedReward(
        loaded.members, loaded.normaliser, encode=text_encoding(loaded.members[0].trunk)
    )
    expected = []
    for judgement in judge.judge([Group(x.prompt, x.responses) for x in asked]):
        scores = [s.value for s in judgement.scores]
        expected += [a - b for i, a in enumerate(scores) for b in scores[i + 1 :]]  # type: ignore[operator]
    assert found.ids == ("i0", "i1", "i2", "i3")  # one response compares with nothing
    assert found.item_of.tolist() == [0, 1, 2, 3, 3, 3]
    assert found.margins.shape == (6, 3)
    assert found.margins.mean(1) == pytest.approx(expected, abs=1e-5)


def run(*args: str) -> str:
    done = CliRunner().invoke(app, ["label", "next", *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_chosen_come_first_in_the_queue(tmp_path: Path, ensemble: Path) -> None:
    file = str(tmp_path / "labels.db")
    with Store.open(file) as store:
        store.add_items(items(8))
        store.add_labels(
            [Label("l1", "i0", "anna", "ranking", ranks=(1.0, 2.0))], add_labellers="person"
        )
    dry = json.loads(run(file, "--model", str(ensemble), "--n", "2", "--dry-run", "--json"))
    assert dry["written"] is False
    chosen = json.loads(run(file, "--model", str(ensemble), "--n", "2", "--json"))["items"]
    assert chosen == dry["items"]
    assert "i0" not in chosen  # it has a label
    with Store.open(file) as store:
        store.set_campaign(Campaign("c"))
        store.people.add("ben")
        given = []
        for _ in range(2):
            assignment = store.queue.assign("ben", "c")
            assert assignment is not None
            given.append(assignment.item)
            store.add_labels(
                [Label(assignment.id, assignment.item, "ben", "ranking", ranks=(1.0, 2.0))]
            )
    assert given == chosen


def test_unsure_items_are_asked_about_again(tmp_path: Path) -> None:
    file = str(tmp_path / "labels.db")
    with Store.open(file) as store:
        store.add_items(items(3))
        said = {"i0": (1, 1, 1), "i1": (1, 1, 0), "i2": (1, 1, 1)}
        labels = [
            Label(f"{item}-{k}", item, f"p{k}", "ranking", ranks=(1.0, 2.0) if x else (2.0, 1.0))
            for item, votes in said.items()
            for k, x in enumerate(votes)
        ]
        store.add_labels(labels, add_labellers="person")
        store.set_campaign(Campaign("c", overlap=3))
        store.people.add("dora")
        assert store.queue.assign("dora", "c") is None  # three have judged each
    assert json.loads(run(file, "--by", "posterior", "--n", "1", "--json"))["items"] == ["i1"]
    with Store.open(file) as store:
        assignment = store.queue.assign("dora", "c")
        assert assignment is not None
        assert assignment.item == "i1"
        decided = Label("d", "i1", "dora", "ranking", ranks=(1.0, 2.0), tags=(ADJUDICATION,))
        store.add_labels([decided])
    again = json.loads(run(file, "--by", "posterior", "--n", "3", "--json"))["items"]
    assert sorted(again) == ["i0", "i2"]  # what is decided is not asked about again


def test_bad_requests_name_the_cure(tmp_path: Path) -> None:
    file = str(tmp_path / "labels.db")
    with pytest.raises(ConfigError, match="--model"):
        next_items(file)
    with pytest.raises(ConfigError, match="--by is"):
        next_items(file, by="vibes")
    with Store.open(file):
        pass
    with pytest.raises(ConfigError, match="no labels yet"):
        next_items(file, by="posterior")
    with pytest.raises(ConfigError, match="add some"):
        next_items(file, by="random")
