"""Suites on real weights: likelihoods, implicit rewards, reward models, the policy in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evals_world import write

from gnomon.errors import ConfigError, ModelError
from gnomon.evals.asking import Ask, Unanswered
from gnomon.evals.evaluate import evaluate
from gnomon.evals.implicit import ImplicitReward
from gnomon.evals.subject import LivePolicy, Model
from gnomon.evals.table import make_suite
from gnomon.evals.targets import open_target
from gnomon.models.heads import RewardNormaliser, ScalarHead
from gnomon.models.roles import Role
from gnomon.models.save import save_reward_model
from gnomon.records import Group, Message, Prompt, Response
from tiny_world import CONTEXT, save_tiny, tiny_model, tokenizer, trunk


def prompt(text: str, id: str = "p") -> Prompt:
    return Prompt(id, (Message("user", text),))


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Model:
    return Model(str(tiny_folder), "tiny")


def direct(ids: list[int], start: int) -> float:
    """The log-probability of ids[start:] by a plain forward pass."""
    with torch.no_grad():
        logits = tiny_model()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(sum(logits[i - 1, ids[i]] for i in range(start, len(ids))))


def test_choices_have_the_likelihood_of_a_plain_forward_pass(tiny: Model) -> None:
    (found,) = tiny.choice_logprobs([prompt("What is 2 + 2?")], [["It is 4", "no"]])
    assert not isinstance(found, Unanswered)
    opening = tiny.encoder.encode_prompt(prompt("What is 2 + 2?"))
    before = tokenizer().decode(opening)
    for text, (value, count) in zip(("It is 4", "no"), found, strict=True):
        ids = tiny.encoder.encode_continuation(before, text)
        assert count == len(ids)
        assert value == pytest.approx(direct([*opening, *ids], len(opening)), abs=1e-3)


def test_a_prompt_that_does_not_fit_is_unanswered_and_the_others_are_not(tiny: Model) -> None:
    long = prompt("word " * CONTEXT, "long")
    answers = tiny.answer([prompt("hi"), long], Ask(max_new_tokens=4))
    assert isinstance(answers[0], Group)
    assert isinstance(answers[1], Unanswered)
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        tiny.answer([prompt("hi")], Ask(max_new_tokens=CONTEXT))


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(tiny: Model) -> None:
    ask = Ask(max_new_tokens=8, temperature=1.0)
    (alone,) = tiny.answer([prompt("a", "x")], ask)
    _, beside = tiny.answer([prompt("b", "y"), prompt("a", "x")], ask)
    assert isinstance(alone, Group)
    assert isinstance(beside, Group)
    assert alone.responses[0].text == beside.responses[0].text


def pairs(folder: Path) -> str:
    rows = [{"prompt": f"q {i}", "chosen": f"It is {i}", "rejected": f"no {i}"} for i in range(4)]
    return write(folder / "pairs.jsonl", rows)


def test_an_implicit_reward_is_the_difference_of_two_likelihoods(
    tiny: Model, tmp_path: Path
) -> None:
    other = Model(str(save_tiny(tmp_path / "other", seed=1)), "other")
    group = Group(
        prompt("q"), tuple(Response((Message("assistant", t),)) for t in ("It is 1", "no"))
    )
    (scores,) = ImplicitReward(tiny, other).judge([group])
    own, theirs = (ImplicitReward(m, None).judge([group])[0] for m in (tiny, other))
    for i in range(2):
        gap = own.scores[i].value - theirs.scores[i].value  # type: ignore[operator]
        assert scores.scores[i].value == pytest.approx(gap)
    encoded = tiny.encoder.encode_group(group)
    ids = [*encoded.prompt_ids, *encoded.responses[0].ids]
    assert own.scores[0].value == pytest.approx(direct(ids, len(encoded.prompt_ids)), abs=1e-3)


def test_a_policy_needs_a_reference_with_its_own_tokenizer(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError):  # neither gnomon's policy nor a reward model
        evaluate(make_suite("reward_bench", {"data": pairs(tmp_path)}, tmp_path), tiny, tmp_path)
    result = evaluate(
        make_suite("reward_bench", {"data": "pairs.jsonl", "reference": "none"}, tmp_path),
        tiny,
        tmp_path,
    )
    assert result.n == 4
    other = save_tiny(tmp_path / "other")
    file = other / "tokenizer.json"
    state = json.loads(file.read_text())
    vocabulary = state["model"]["vocab"]
    names = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[names[0]], vocabulary[names[1]] = vocabulary[names[1]], vocabulary[names[0]]
    file.write_text(json.dumps(state))
    suite = make_suite("reward_bench", {"data": "pairs.jsonl", "reference": "other"}, tmp_path)
    with pytest.raises(ConfigError, match="have different tokenizers"):
        evaluate(suite, tiny, tmp_path)


def test_a_reward_model_reads_answers_as_text(tmp_path: Path) -> None:
    base = trunk()
    head = ScalarHead(base.hidden_size)
    with torch.no_grad():
        next(head.parameters()).normal_(generator=torch.Generator().manual_seed(0))
    role = Role("rm", base, head=head)
    folder = tmp_path / "rm"
    save_reward_model(folder, [role], normaliser=RewardNormaliser())
    target = open_target(str(folder), out=tmp_path)
    suite = make_suite("reward_bench", {"data": pairs(tmp_path)}, tmp_path)
    result = evaluate(suite, target.subject, tmp_path)
    assert (result.n, result.model) == (4, "rm")
    suite = make_suite("reward_bench", {"data": "pairs.jsonl", "reference": "none"}, tmp_path)
    with pytest.raises(ConfigError, match="leave reference out"):
        evaluate(suite, target.subject, tmp_path)


def test_the_policy_in_training_is_known_by_its_weights() -> None:
    role = Role("policy", trunk(), trainable=True)
    live = LivePolicy("ppo", role)
    live.refresh()
    first = live.sha256
    live.refresh()
    assert live.sha256 == first
    with torch.no_grad():
        next(iter(role.named_parameters().values())).add_(0.01)
    live.refresh()
    assert live.sha256 != first
