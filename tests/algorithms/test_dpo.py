"""DPO and its relatives: losses against naive ones, splits, metrics, resuming, learning."""

import math
from dataclasses import replace

import pytest
import torch
from offline_zoo import (
    V,
    assert_same,
    given,
    make,
    model,
    move,
    naive,
    padded_logprobs,
    pairs,
    rankings,
    shaken,
    step,
)
from pydantic import ValidationError
from scipy import stats
from torch.nn.functional import logsigmoid

import tiny_world as tw
from gnomon.algorithms.dpo import DPO
from gnomon.algorithms.offline_settings import DPOSettings
from gnomon.records import Comparison, TokenGroup, TokenResponse
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress

BASE = model()
POLICY = shaken(BASE)


def h(won, lost, ref_won, ref_lost):
    return won.sum() - lost.sum() - ref_won.sum() + ref_lost.sum()


def odds(x):
    return x.mean() - torch.log(1 - x.mean().exp())


def desensitised(*logprobs):
    n = min(map(len, logprobs))
    return h(*(torch.cat([x[:n], 0.3 * x[n:]]) for x in logprobs))


# name, settings, the paper's equation on per-token log-probs of one pair
CASES = {
    "dpo": ("dpo", {"beta": 0.2}, lambda *x: -logsigmoid(0.2 * h(*x))),
    "cdpo": (
        "dpo",
        {"beta": 0.2, "label_smoothing": 0.1},
        lambda *x: -0.9 * logsigmoid(0.2 * h(*x)) - 0.1 * logsigmoid(-0.2 * h(*x)),
    ),
    "r-dpo": (
        "dpo",
        {"beta": 0.2, "length_regularisation": 0.05},
        lambda w, x, *r: -logsigmoid(0.2 * h(w, x, *r) + 0.05 * (len(w) - len(x))),
    ),
    "ld-dpo": (
        "dpo",
        {"beta": 0.2, "length_desensitise": 0.3},
        lambda *x: -logsigmoid(0.2 * desensitised(*x)),
    ),
    "rpo": (
        "dpo",
        {"beta": 0.2, "nll_coef": 0.5},
        lambda w, *x: -logsigmoid(0.2 * h(w, *x)) - 0.5 * w.mean(),
    ),
    "ipo sums": (
        "dpo",
        {"beta": 0.5, "loss": "ipo", "ipo_average": False},
        lambda *x: (h(*x) - 1) ** 2,
    ),
    "simpo": (
        "simpo",
        {"beta": 2.0, "gamma": 0.6},
        lambda w, x, *_: -logsigmoid(2.0 * (w.mean() - x.mean()) - 0.6),
    ),
    "orpo": (
        "orpo",
        {"beta": 0.3},
        lambda w, x, *_: -w.mean() - 0.3 * logsigmoid(odds(w) - odds(x)),
    ),
    "cpo": (
        "cpo",
        {"beta": 0.3, "nll_coef": 0.7},
        lambda w, x, *_: -logsigmoid(0.3 * (w.sum() - x.sum())) - 0.7 * w.mean(),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("groups", [pairs(), rankings()], ids=["pairs", "rankings"])
def test_loss_and_gradient_are_the_papers(case, groups):
    name, settings, equation = CASES[case]
    algorithm = make(name, given(groups, BASE), **settings)
    move(algorithm, POLICY)
    loss, grads = step(algorithm)
    network = shaken(BASE)
    expected = naive(network, BASE, groups, equation)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    by_name = dict(network.named_parameters())
    assert_same(grads, {key: by_name[key.removeprefix("policy.trunk.")].grad for key in grads})


def test_plackett_luce_is_the_chain_of_choices():
    groups = rankings()
    algorithm = make("dpo", given(groups, BASE), beta=0.3, loss="plackett_luce")
    move(algorithm, POLICY)
    loss, _ = step(algorithm)
    expected = 0.0
    for group in groups:
        now, then = padded_logprobs(POLICY, group), padded_logprobs(BASE, group)
        r = torch.stack([0.3 * (a.sum() - b.sum()) for a, b in zip(now, then, strict=True)])
        expected -= sum(r[i] - r[i:].logsumexp(0) for i in range(len(r) - 1)).item()
    assert loss == pytest.approx(expected / len(groups), rel=1e-4)


def test_plackett_luce_on_pairs_is_dpo():
    one, other = (
        make("dpo", given(pairs(), BASE), loss=loss) for loss in ("sigmoid", "plackett_luce")
    )
    for algorithm in (one, other):
        move(algorithm, POLICY)
    assert step(one)[0] == pytest.approx(step(other)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dpo", {"nll_coef": 0.2}),
        ("dpo", {"loss": "plackett_luce"}),
        ("dpo", {"length_desensitise": 0.5}),
        ("simpo", {}),
        ("orpo", {}),
        ("cpo", {}),
    ],
)
def test_any_split_gives_the_same_gradient(name, settings):
    groups = [replace(g, weight=1.0 + i) for i, g in enumerate([*rankings(), *pairs(3)])]
    algorithm = make(name, given(groups, BASE), **settings)
    move(algorithm, POLICY)
    whole, split = step(algorithm), step(algorithm, budget=1)
    assert whole[0] == pytest.approx(split[0], rel=1e-5)
    assert_same(whole[1], split[1])
    heavier = [replace(g, weight=1.0) for g in groups]
    plain = make(name, given(heavier, BASE), **settings)
    move(plain, POLICY)
    assert step(plain)[0] != pytest.approx(whole[0], rel=1e-4)  # weights do count


def test_masked_tokens_stay_out_of_the_loss():
    """The first token of every response is context: with it counted the loss would differ."""

    def masked(group):
        responses = (replace(r, mask=[False] + [True] * (len(r.ids) - 1)) for r in group.responses)
        return replace(group, responses=tuple(responses))

    groups = pairs()
    algorithm = make("dpo", given([masked(g) for g in groups], BASE), beta=0.2)
    move(algorithm, POLICY)

    def equation(*x):
        return -logsigmoid(0.2 * h(*(side[1:] for side in x)))

    loss = step(algorithm)[0]
    assert loss == pytest.approx(naive(POLICY, BASE, groups, equation).item(), rel=1e-4)
    assert loss != pytest.approx(naive(POLICY, BASE, groups, CASES["dpo"][2]).item(), rel=1e-3)


def test_starts_where_policy_and_reference_agree():
    algorithm = make("dpo", given(pairs(), BASE, held_out=pairs(4, seed=9)))
    assert step(algorithm)[0] == pytest.approx(math.log(2), abs=1e-6)
    metrics = algorithm.evaluate().metrics
    assert metrics["eval/accuracy"] == pytest.approx(0.5, abs=0.5)
    assert metrics["eval/margin"] == pytest.approx(0.0, abs=1e-6)


def measured(algorithm):
    (minibatch,) = algorithm.experience(0).minibatches
    return tw.step_figures(algorithm, minibatch.groups)


def test_metrics_of_each_side():
    groups = pairs()
    algorithm = make("dpo", given(groups, BASE), beta=0.2)
    move(algorithm, POLICY)
    found = measured(algorithm)
    now, then = (
        [[x.sum().item() for x in padded_logprobs(network, g)] for g in groups]
        for network in (POLICY, BASE)
    )
    change = torch.tensor(
        [[a - b for a, b in zip(*g, strict=True)] for g in zip(now, then, strict=True)]
    )
    assert found["logprobs/chosen"] == pytest.approx(sum(x[0] for x in now) / 6, rel=1e-4)
    assert found["logprobs/rejected_change"] == pytest.approx(float(change[:, 1].mean()), rel=1e-3)
    assert found["rewards/chosen"] == pytest.approx(0.2 * float(change[:, 0].mean()), rel=1e-3)
    assert found["margin"] == pytest.approx(
        found["rewards/chosen"] - found["rewards/rejected"], rel=1e-4
    )
    assert found["accuracy"] == pytest.approx(float((change[:, 0] > change[:, 1]).float().mean()))
    assert found["displacement"] == pytest.approx(float((change < 0).all(1).float().mean()))
    assert found["kl_forward"] == pytest.approx(-float(change.mean()), rel=1e-3)
    lengths = [[len(r.ids) for r in g.responses] for g in groups]
    assert found["length/chosen"] == pytest.approx(sum(x[0] for x in lengths) / 6)
    assert found["length/rejected"] == pytest.approx(sum(x[1] for x in lengths) / 6)


def test_displacement_is_seen_when_both_sides_fall():
    algorithm = make("dpo", given(pairs(), BASE))
    assert measured(algorithm)["displacement"] == 0.0
    head = algorithm.roles["policy"].trunk.model.get_output_embeddings()
    with torch.no_grad():  # three times as sharp: random answers become unlikely
        head.weight *= 3
    found = measured(algorithm)
    assert found["logprobs/chosen_change"] < 0
    assert found["logprobs/rejected_change"] < 0
    assert found["displacement"] > 0.5


def test_held_out_accuracy_by_category_with_intervals():
    held_out = pairs(8, seed=4)
    algorithm = make("dpo", given(pairs(), BASE, held_out=held_out), beta=0.2)
    move(algorithm, POLICY)
    evaluation = algorithm.evaluate()
    right = []
    for g in held_out:
        now, then = padded_logprobs(POLICY, g), padded_logprobs(BASE, g)
        right.append(float(h(*now, *then) > 0))
    exact = stats.binomtest(int(sum(right)), 8).proportion_ci(method="exact")
    assert evaluation.metrics["eval/accuracy"] == pytest.approx(sum(right) / 8)
    assert evaluation.metrics["eval/accuracy_low"] == pytest.approx(exact.low)
    assert evaluation.metrics["eval/accuracy_high"] == pytest.approx(exact.high)
    assert evaluation.metrics["eval/accuracy_n"] == 8
    categories = evaluation.details["held-out implicit reward"]["by_category"]
    assert categories["even"]["value"] == pytest.approx(sum(right[::2]) / 4)
    assert categories["odd"]["value"] == pytest.approx(sum(right[1::2]) / 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "ipo", "label_smoothing": 0.1},
        {"loss": "hinge", "divergence": "js"},
        {"length_regularisation": 0.1, "label_smoothing": 0.1},
        {"loss": "plackett_luce", "nll_coef": 0.2},
        {"loss": "ipo", "length_desensitise": 0.5},
        {"label_smoothing": 0.5},
        {"beta": 0.0},
        {"betta": 0.1},
        {"ipo_average": False},
        {"alpha": 0.3},
        {"sync_every": 4},
        {"reference": "live", "sync_alpha": 0.5},
    ],
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ValidationError):
        DPOSettings(**settings)


# -- ties and contradictions ----------------------------------------------------------------------


def test_ties_and_contradictions_are_left_out_and_named():
    a, b, c, d = pairs(4)
    tie = replace(a, comparisons=(Comparison(0, 1, tie=True),))
    reverse = replace(b, id="again", comparisons=(Comparison(1, 0),))
    kept, skipped = DPO.prepare([tie, b, reverse, c, d], DPOSettings())
    assert [g.id for g in kept] == [c.id, d.id]
    assert sorted(s.reason for s in skipped) == [
        "only ties",
        "the same two answers are judged both ways",
        "the same two answers are judged both ways",
    ]


def test_a_ranking_keeps_its_clear_pairs_only():
    (group,) = rankings(1)
    better = {(0, 1), (0, 2), (1, 2)}
    tied = replace(group, comparisons=(*group.comparisons[:2], Comparison(1, 2, tie=True)))
    doubted = replace(group, comparisons=(*group.comparisons, Comparison(2, 1)))
    assert {(c.better, c.worse) for c in group.comparisons} == better
    for case in (tied, doubted):
        ((kept,), _) = DPO.prepare([case], DPOSettings())
        assert {(c.better, c.worse) for c in kept.comparisons} == {(0, 1), (0, 2)}
    other = rankings(1, seed=8)[0]
    whole, skipped = DPO.prepare([doubted, other], DPOSettings(loss="plackett_luce"))
    assert whole == [other]
    assert len(skipped) == 1


# -- the loop -------------------------------------------------------------------------------------


def run(folder, iterations, role, settings, resume=False):
    """Train from BASE and return the policy's weights."""
    parts = given(pairs(), BASE, batch_size=2, reference=role)
    algorithm = make("dpo", parts, **settings)
    options = LoopOptions(iterations=iterations, lr=1e-2, schedule="constant", checkpoint_every=2)
    with Progress("test", iterations, enabled=False) as progress:
        Loop(algorithm, options, folder, progress).run(resume)
    return dict(algorithm.named_parameters())


@pytest.mark.parametrize(
    ("role", "settings"),
    [
        (None, {}),
        ("moving", {"reference": "synced", "sync_every": 1, "sync_alpha": 0.5}),
        ("frozen", {"reference": "live"}),
    ],
)
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, role, settings):
    straight = run(tmp_path / "a", 4, role, settings)
    run(tmp_path / "b", 2, role, settings)
    resumed = run(tmp_path / "b", 4, role, settings, resume=True)
    for key, value in straight.items():
        assert torch.equal(value, resumed[key])


def preference_for(token):
    """Every prompt's chosen answer is ``token``, its rejected one another."""
    draw = torch.Generator().manual_seed(0)
    groups = []
    for i in range(32):
        prompt = [0, *torch.randint(3, V, (4,), generator=draw).tolist()]
        others = (token, token + 1 + i % 5)
        sides = tuple(TokenResponse([x, 1], [True, True], scalar={"rank": 1.0}) for x in others)
        groups.append(TokenGroup(f"p{i}", prompt, sides, (Comparison(0, 1),)))
    return groups


@pytest.mark.parametrize("name", ["dpo", "simpo", "orpo", "cpo"])
def test_learns_to_prefer_a_token_on_prompts_it_has_not_seen(tmp_path, name):
    groups = preference_for(7)
    parts = given(groups[:24], BASE, held_out=groups[24:], batch_size=8)
    algorithm = make(name, parts)
    before = algorithm.evaluate().metrics["eval/margin"]
    options = LoopOptions(iterations=20, lr=1e-2, checkpoint_every=100)
    with Progress("test", 20, enabled=False) as progress:
        Loop(algorithm, options, tmp_path, progress).run()
    after = algorithm.evaluate().metrics
    assert after["eval/accuracy"] == 1.0
    assert after["eval/margin"] > before
