"""KTO: the loss and its baseline, splits, bad data, learning."""

from dataclasses import replace

import pytest
import torch
from offline_zoo import (
    EOS,
    V,
    assert_same,
    given,
    labelled,
    make,
    model,
    move,
    padded_logprobs,
    shaken,
    step,
)
from pydantic import ValidationError

import tiny_world as tw
from gnomon.algorithms.kto import KTO, mismatch
from gnomon.algorithms.offline_settings import KTOSettings
from gnomon.data.batch import pack
from gnomon.errors import DataError
from gnomon.records import Source, TokenGroup, TokenResponse
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress

BASE = model()


def flatter():
    """A policy to which random answers are likelier than to the reference, so that z_0 > 0."""
    network = shaken(BASE)
    with torch.no_grad():
        network.get_output_embeddings().weight.mul_(0.8)
    return network


POLICY = flatter()


def ratio(network, group):
    """log pi(y|x) / pi_ref(y|x) of a group's only answer."""
    (now,), (then,) = padded_logprobs(network, group), padded_logprobs(BASE, group)
    return now.sum() - then.sum().detach()


def equation(network, groups, baseline, beta, good_weight=1.0, bad_weight=1.0):
    """The paper's equations 7 and 8, answer by answer."""
    total = torch.zeros(())
    for group in groups:
        r = ratio(network, group)
        if group.responses[0].scalar["label"]:
            total = total + good_weight * (1 - torch.sigmoid(beta * (r - baseline)))
        else:
            total = total + bad_weight * (1 - torch.sigmoid(beta * (baseline - r)))
    return total / len(groups)


def moved(**settings):
    algorithm = make("kto", given(labelled(), BASE), **settings)
    move(algorithm, POLICY)
    return algorithm


def test_loss_and_gradient_are_the_papers():
    groups = labelled()
    algorithm = moved(beta=0.3, desirable_weight=1.2, undesirable_weight=0.8)
    loss, grads = step(algorithm)
    network = flatter()
    with torch.no_grad():
        z0 = torch.stack([ratio(network, g) for g in mismatch(groups, groups, 7)]).mean().clamp(0)
    assert z0 > 0.1
    expected = equation(network, groups, z0, 0.3, 1.2, 0.8)
    expected.backward()  # z0 carries no gradient
    assert algorithm.experience(0).metrics["kl"] == pytest.approx(float(z0), rel=1e-3, abs=1e-5)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    by_name = dict(network.named_parameters())
    assert_same(grads, {key: by_name[key.removeprefix("policy.trunk.")].grad for key in grads})


def test_any_split_gives_the_same_gradient():
    """The baseline is the whole step's: a micro-batch's own would differ."""
    algorithm = moved(beta=0.3)
    whole, split = step(algorithm), step(algorithm, budget=1)
    assert whole[0] == pytest.approx(split[0], rel=1e-5)
    assert_same(whole[1], split[1])


def test_a_positive_baseline_enters_the_loss():
    """A policy that raises every answer gains nothing over its own average."""
    algorithm = make("kto", given(labelled(), BASE), beta=0.3)
    (minibatch,) = algorithm.experience(0).minibatches
    raised = [
        replace(
            g,
            responses=tuple(
                replace(r, scalar={**r.scalar, "ref_logprob": r.scalar["ref_logprob"] - 3.0})
                for r in g.responses
            ),
        )
        for g in minibatch.groups
    ]

    def loss(baseline):
        groups = [
            replace(
                g,
                responses=tuple(
                    replace(r, scalar={**r.scalar, "kto_baseline": baseline}) for r in g.responses
                ),
            )
            for g in raised
        ]
        return algorithm.loss(pack(groups), tw.step_of(algorithm, groups)).loss.item()

    assert loss(3.0) == pytest.approx(0.5, abs=1e-5)
    assert loss(0.0) != pytest.approx(0.5, abs=1e-2)


def test_mismatches_are_other_prompts_answers_fixed_by_the_seed():
    groups = labelled(12)
    groups[3] = replace(groups[3], prompt_ids=groups[2].prompt_ids)  # one prompt, two answers
    once, again, other = (mismatch(groups, groups, seed) for seed in (1, 1, 2))
    assert once == again != other
    answers = {tuple(g.prompt_ids): set() for g in groups}
    for g in groups:
        answers[tuple(g.prompt_ids)].add(tuple(g.responses[0].ids))
    for group, made in zip(groups, once, strict=True):
        assert made.prompt_ids == group.prompt_ids
        ids = tuple(made.responses[0].ids)
        assert ids not in answers[tuple(group.prompt_ids)]
        longest = max(len(g.prompt_ids) + len(g.responses[0].ids) for g in groups)
        assert len(made.prompt_ids) + len(ids) <= longest


def test_auto_weight_balances_the_classes():
    algorithm = make("kto", given(labelled(9), BASE), desirable_weight="auto")
    good, bad = algorithm.algorithm.weights
    assert good * 6 == pytest.approx(bad * 3)


def test_metrics_and_held_out_accuracy():
    held_out = labelled(9, seed=11)
    algorithm = make("kto", given(labelled(), BASE, held_out=held_out), beta=0.3)
    move(algorithm, POLICY)
    evaluation = algorithm.evaluate()
    with torch.no_grad():
        z0 = evaluation.metrics["eval/kl"]
        right = [
            float((ratio(POLICY, g) > z0) == bool(g.responses[0].scalar["label"])) for g in held_out
        ]
    assert evaluation.metrics["eval/accuracy"] == pytest.approx(sum(right) / 9)
    by_category = evaluation.details["held-out labels"]["by_category"]
    assert by_category["odd"]["value"] == pytest.approx(sum(right[1::2]) / 4)
    (minibatch,) = algorithm.experience(0).minibatches
    found = tw.step_figures(algorithm, minibatch.groups)
    good = [g for g in labelled() if g.responses[0].scalar["label"]]
    with torch.no_grad():
        change = sum(ratio(POLICY, g).item() for g in good) / len(good)
    assert found["logprobs/chosen_change"] == pytest.approx(change, rel=1e-3, abs=1e-5)
    assert found["rewards/chosen"] == pytest.approx(0.3 * change, rel=1e-3, abs=1e-5)
    assert found["length/chosen"] == sum(len(g.responses[0].ids) for g in good) / len(good)


# -- bad data ---


def one_class(label):
    return [
        replace(
            g,
            source=Source("labels.jsonl", i + 1),
            responses=(replace(g.responses[0], scalar={"label": label}),),
        )
        for i, g in enumerate(labelled())
    ]


@pytest.mark.parametrize(("label", "word"), [(1.0, "good"), (0.0, "bad")])
def test_data_of_one_class_is_refused_by_name(label, word):
    with pytest.raises(DataError, match=rf"labels.jsonl: all 8 answers are {word}"):
        KTO.prepare(one_class(label), KTOSettings())
    kept, _ = KTO.prepare(one_class(label), KTOSettings(), training=False)
    assert len(kept) == 8  # held-out answers may be of one kind


def test_answers_labelled_both_ways_are_left_out_and_counted():
    groups = labelled()
    twin = replace(
        groups[0], id="twin", responses=(replace(groups[0].responses[0], scalar={"label": 0.0}),)
    )
    kept, skipped = KTO.prepare([*groups, twin], KTOSettings())
    assert [g.id for g in kept] == [g.id for g in groups[1:]]
    assert [s.reason for s in skipped] == ["the same answer is labelled good and bad"] * 2


def test_missing_labels_and_a_single_prompt_are_refused():
    bare = [
        replace(g, responses=(TokenResponse(g.responses[0].ids, g.responses[0].mask),))
        for g in labelled()
    ]
    with pytest.raises(DataError, match="no label"):
        KTO.prepare(bare, KTOSettings())
    same = [replace(g, prompt_ids=[0, 5]) for g in labelled()]
    with pytest.raises(DataError, match="all prompts are the same"):
        make("kto", given(same, BASE))


# -- the loop ---


def train(groups, folder, iterations, *, resume=False, held_out=(), **settings):
    algorithm = make("kto", given(groups, BASE, batch_size=8, held_out=held_out), **settings)
    options = LoopOptions(iterations=iterations, lr=1e-2, schedule="constant", checkpoint_every=2)
    with Progress("test", iterations, enabled=False) as progress:
        Loop(algorithm, options, folder, progress).run(resume)
    return algorithm


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    straight = train(labelled(12), tmp_path / "a", 4)
    train(labelled(12), tmp_path / "b", 2)
    resumed = train(labelled(12), tmp_path / "b", 4, resume=True)
    for (_, value), (_, other) in zip(
        straight.named_parameters(), resumed.named_parameters(), strict=True
    ):
        assert torch.equal(value, other)


def test_learns_which_answers_are_good(tmp_path):
    draw = torch.Generator().manual_seed(0)
    groups = []
    for i in range(48):
        prompt = [0, *torch.randint(3, V, (4,), generator=draw).tolist()]
        good = i % 2 == 0
        token = 7 if good else 8 + i % 5
        answer = TokenResponse([token, EOS], [True, True], scalar={"label": float(good)})
        groups.append(TokenGroup(f"k{i}", prompt, (answer,)))
    algorithm = train(groups[:32], tmp_path, 16, held_out=groups[32:])
    assert algorithm.evaluate().metrics["eval/accuracy"] > 0.85


@pytest.mark.parametrize("weight", [0, -1, "automatic"])
def test_a_weight_that_would_unlearn_good_answers_is_refused(weight):
    with pytest.raises(ValidationError, match="desirable_weight"):
        KTOSettings(desirable_weight=weight)
