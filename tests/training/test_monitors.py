"""What a stage that samples watches, against counting by hand; and watching changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import tiny_world as tw
from gnomon.algorithms.base import Step, Workbench
from gnomon.algorithms.rollouts import Rollout, rollout_metrics, sample_rows
from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, SampleJudge, Score
from gnomon.models.load import read_config
from gnomon.models.memory import parameter_count
from gnomon.models.roles import Role
from gnomon.plan.memory import memory
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.training import MonitorSpec
from gnomon.records import Judgement, TokenGroup, TokenResponse
from gnomon.rollout.protocol import Completion, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_recipe
from gnomon.stages.run import run_recipe
from gnomon.stages.stage import open_stage
from gnomon.training import monitors as m
from gnomon.training.learner import Learner
from gnomon.training.loop import Loop, LoopOptions
from gnomon.training.played import Asked, Played, Sampling
from gnomon.training.progress import Progress

NATS = ("kl", "ref_logprob", "entropy", "mismatch")


def rollout(texts: Sequence[str], rewards: Sequence[Any], lengths: Sequence[int] = ()) -> Rollout:
    """A prompt's answers; a reward is a number, a Score or None."""
    lengths = lengths or [3] * len(texts)
    completions = [
        Completion(tuple(range(8, 8 + n)), torch.full((n,), -1.0), "eos" if n < 5 else "length", t)
        for t, n in zip(texts, lengths, strict=True)
    ]
    scores = tuple(
        s if isinstance(s, Score) else Score(s, error="failed" if s is None else None)
        for s in rewards
    )
    return Rollout(tw.prompts(1)[0], completions, Judgement("r", scores), {})


# -- rewards --------------------------------------------------------------------------------------


def test_reward_monitors_against_numpy():
    rows = [rollout("abcd", [1, 2, 3, 10], [1, 2, 3, 9]), rollout("ab", [5, None], [2, 7])]
    found = m.reward_monitors(rows)
    low, high = np.percentile([1, 2, 3, 10, 5], [5, 95])
    assert found["reward_p05"] == pytest.approx(low)
    assert found["reward_p95"] == pytest.approx(high)
    x, y = np.array([1, 2, 3, 9.0]), np.array([1, 2, 3, 10.0])
    assert found["length_reward_corr"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found["truncated"] == pytest.approx(2 / 6)
    assert "disagreement" not in found


def test_one_answer_to_a_prompt_has_no_correlation_within_it():
    assert "length_reward_corr" not in m.reward_monitors([rollout("a", [1]), rollout("b", [2])])


def test_failed_rewards_leave_what_there_is():
    assert m.reward_monitors([rollout("ab", [None, None])]) == {"truncated": 0.0}


def test_disagreement_is_the_trained_ensembles_or_else_an_observed_ones():
    ensemble = [Score(1.0, {"mean": 1.0, "std": 0.5}), Score(2.0, {"mean": 2.0, "std": 1.5})]
    mixed = [Score(1.0, {"rm": 1.0, "rm/mean": 1.0, "rm/std": 0.25, "std": 9.0})] * 2
    watched = {"judge": Judgement("judge", tuple(ensemble))}
    assert m.disagreement([rollout("ab", ensemble)]) == pytest.approx(1.0)
    assert m.disagreement([replace(rollout("ab", mixed), observed=watched)]) == 0.25
    assert m.disagreement([replace(rollout("ab", [1, 2]), observed=watched)]) == pytest.approx(1.0)
    assert m.disagreement([rollout("ab", [1, 2])]) is None


# -- texts ----------------------------------------------------------------------------------------


def test_text_monitors_by_hand():
    found = m.text_monitors([["a b a b", "a b"], ["c d e", "I can't help with that."]])
    assert found["distinct_within"] == pytest.approx((2 / 4 + 1) / 2)
    assert found["distinct_across"] == pytest.approx(4 / 5)
    assert found["self_similarity"] == 0
    assert found["opening_share"] == pytest.approx(1 / 4)
    assert found["repetition"] == pytest.approx(0.0)
    assert found["refusals"] == pytest.approx(1 / 4)
    assert found["language_share"] == 1


def test_a_collapsed_policy_is_told_from_a_varied_one():
    varied = m.text_monitors(
        [[f"answer {i} says {i * 7}" for i in range(k, k + 4)] for k in (0, 9)]
    )
    same = m.text_monitors([["it is 39 is 39 is 39"] * 4] * 2)
    assert same["self_similarity"] == same["opening_share"] == 1
    assert same["distinct_within"] < 0.2 < varied["distinct_within"]
    assert same["repetition"] > 0.3 > varied["repetition"]


def test_what_one_answer_cannot_tell_is_left_out():
    found = m.text_monitors([["a b c"]])
    assert not {"distinct_within", "distinct_across", "self_similarity"} & found.keys()
    assert found["opening_share"] == 1
    assert "language_share" not in m.text_monitors([["1 2"]])


def test_longer_answers_are_not_less_varied():
    words = [f"w{i}" for i in range(m.READ_WORDS)]
    short, long = " ".join(words), " ".join(words + ["again"] * 500)
    one, other = m.text_monitors([[short, short]]), m.text_monitors([[long, long]])
    assert one["distinct_within"] == other["distinct_within"]


def test_whole_prompts_are_read_until_there_are_enough():
    rows = [rollout("abc", [1, 2, 3])] * 4
    assert [len(row) for row in m.texts_of(rows, 4)] == [3, 3]
    assert [len(row) for row in m.texts_of(rows, 1)] == [3]
    assert len(m.texts_of(rows, 99)) == 4


# -- tokens under a model -------------------------------------------------------------------------


class Spread(SampleJudge):
    """Different rewards."""

    name = "spread"

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(float(sum(s.response_ids) % 7)) for s in samples]


def learner(
    name: str = "raft",
    spec: MonitorSpec | None = None,
    *,
    reference: bool = True,
    observers: Sequence[Any] = (),
    asked: Any = None,
    iterations: int = 4,
    **settings: Any,
) -> Learner:
    """A method whose policy has moved away from the model it started from."""
    trunk = tw.trunk()
    trunk.add_adapter("policy", tw.LORA, seed=1)
    roles = {"policy": Role("policy", trunk, adapter="policy", trainable=True)}
    if reference:
        roles["reference"] = Role("reference", trunk)
    tw.shake(roles["policy"], 0.1)
    engine = TorchEngine(
        trunk.model,
        tw.tokenizer(),
        activate=lambda: trunk.active("policy"),
        eos_token_ids=(tw.EOS, *range(8, 60)),
    )
    sampling = Sampling(SamplingParams(max_new_tokens=6, temperature=0.8), samples=3)
    played = Played(engine, Spread(), observers=observers, asked=asked or {}, sampling=sampling)
    bench = Workbench(roles, seed=3, batch_size=4, iterations=iterations)
    made = tw.on_prompts(
        name, bench, played, settings, prompts=tw.prompts(8), held_out=tw.prompts(2, seed=33)
    )
    source = tw.sampled(made)
    source.monitors = m.Monitors(source.algorithm, spec or MonitorSpec(), iterations - 1)
    return made


def by_hand(made: Learner, rollouts: Sequence[Rollout], temperature: float) -> dict[str, float]:
    """The figures of all responses, one at a time, from the logits."""
    sums = dict.fromkeys(NATS, 0.0)
    tokens = responses = 0
    for row in rollouts:
        for c in row.completions:
            group = TokenGroup("x", row.prompt.ids, (TokenResponse(c.ids, [True] * len(c.ids)),))
            (batch,) = made.bench.batches([group])
            with torch.no_grad():
                policy, reference = (
                    made.roles[n].logprobs(batch, temperature=temperature, entropy=True)
                    for n in ("policy", "reference")
                )
            sums["kl"] += float((policy.logprobs - reference.logprobs).sum())
            sums["ref_logprob"] += float(reference.logprobs.sum())
            sums["entropy"] += float(policy.entropy.sum())
            sums["mismatch"] += float((policy.logprobs - c.logprobs).abs().sum())
            tokens, responses = tokens + len(c.ids), responses + 1
    return {k: v / (responses if k == "kl" else tokens) for k, v in sums.items()}


def test_figures_under_the_models_are_those_of_each_response_alone():
    made = learner(spec=MonitorSpec(samples=12))
    source = tw.sampled(made)
    rollouts = source.rollouts(0)
    found = source.monitors.model_figures(rollouts, Step(0, 0.8))
    expected = by_hand(made, rollouts, 0.8)
    assert found.keys() == expected.keys()
    for name in ("kl", "ref_logprob", "entropy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    assert found["mismatch"] == pytest.approx(expected["mismatch"], abs=1e-5)
    assert found["kl"] > 0.01


def test_without_a_policys_forward_pass_the_samplers_logprobs_give_the_same_kl():
    made = learner("dapo", MonitorSpec(samples=12))
    source = tw.sampled(made)
    rollouts = source.rollouts(0)
    found = source.monitors.model_figures(rollouts, Step(0, 0.8))
    assert found.keys() == {"kl", "ref_logprob"}  # entropy and mismatch are the method's own
    assert found["kl"] == pytest.approx(by_hand(made, rollouts, 0.8)["kl"], rel=1e-3)


@pytest.mark.parametrize(("name", "settings"), [("grpo", {}), ("ppo", {})])
def test_what_a_method_logs_itself_is_not_computed_again(name, settings):
    made = tw.method(name)
    needed = {need.name for need in made.needs(tw.settings(name, **settings))}
    roles = {n: Role(n, tw.trunk()) for n in needed}
    algorithm = made(tw.settings(name, **settings), Workbench(roles))
    found = m.Monitors(algorithm, MonitorSpec(), 9)
    assert not found.reference
    assert not found.policy


def test_a_method_logs_the_same_likelihood_under_the_reference_itself():
    made = learner("grpo", zero_spread="keep", epochs=2)
    source = tw.sampled(made)
    found = made.experience(0).metrics["ref_logprob"]
    assert found == pytest.approx(by_hand(made, source.rollouts(0), 0.8)["ref_logprob"], rel=1e-4)


def test_few_responses_are_of_as_many_prompts_as_there_are():
    rows = [rollout("abc", [1, 2, 3])] * 4
    assert [len(g.responses) for g in m.some_tokens(rows, 6)] == [2, 2, 2]
    assert [len(g.responses) for g in m.some_tokens(rows, 3)] == [1, 1, 1]
    assert [len(g.responses) for g in m.some_tokens(rows, 99)] == [3, 3, 3, 3]


def test_costly_figures_come_every_few_iterations_and_in_the_last():
    made = learner(spec=MonitorSpec(every=2), iterations=4)
    seen = [set(NATS) <= made.experience(i).metrics.keys() for i in range(4)]
    assert seen == [True, False, True, True]


def test_monitors_can_be_switched_off():
    made = learner(spec=MonitorSpec(every=0, texts=0))
    metrics = made.experience(0).metrics
    assert not {*NATS, *m.TEXT_MONITORS} & metrics.keys()


@pytest.mark.parametrize(("name", "settings"), [("raft", {}), ("dapo", {}), ("online_dpo", {})])
def test_watching_changes_no_weight(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    def trained(spec: MonitorSpec, reference: bool) -> dict[str, torch.Tensor]:
        made = learner(name, spec, reference=reference or name == "online_dpo", **settings)
        options = LoopOptions(3, 1e-2, schedule="constant", warmup=0, seed=3)
        folder = tmp_path / f"{reference}"
        Loop(made, options, folder, Progress("test", 3, False)).run()
        return {n: p.detach().clone() for n, p in made.named_parameters()}

    off = trained(MonitorSpec(every=0, texts=0), False)
    on = trained(MonitorSpec(every=1, samples=99), True)
    assert all(torch.equal(off[name], on[name]) for name in off)


# -- observers that are asked now and then --------------------------------------------------------


class Counting(Spread):
    """Counts the responses that it was asked about."""

    name = "costly"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        self.asked.append(len(samples))
        return super().__call__(samples)


def test_an_observer_is_asked_as_often_and_about_as_much_as_it_is_said():
    judge = Counting()
    made = learner(observers=[judge], asked={"costly": Asked(every=2, samples=4)})
    logged = ["costly" in made.experience(i).metrics for i in range(4)]
    assert logged == [True, False, True, True]
    assert judge.asked == [6, 6, 6]  # two prompts of three responses, in the last iteration too
    made.evaluate()
    assert judge.asked[3:] == [2]


def test_what_an_observer_was_not_asked_about_has_none_of_its_figures():
    made = learner(observers=[Counting()], asked={"costly": Asked(samples=3)})
    rollouts = tw.sampled(made).rollouts(0)
    assert [list(r.observed) for r in rollouts] == [["costly"], [], [], []]
    told = ["costly" in row["parts"] for row in sample_rows(rollouts)]
    assert told == [True] * 3 + [False] * 9
    first = [s.value for s in rollouts[0].observed["costly"].scores]
    assert rollout_metrics(rollouts)["costly"] == pytest.approx(np.mean(first))
    assert rollout_metrics(rollouts)["costly_errors"] == 0


# -- from a recipe --------------------------------------------------------------------------------


def raw_recipe(model: Path, output: Path, **stage: Any) -> dict[str, Any]:
    def prompts(n: int, seed: int) -> dict[str, Any]:
        return {"path": "tunnel:prompts", "options": {"n": n, "seed": seed}}

    given = {
        "name": "rl",
        "algorithm": "dapo",
        "data": prompts(8, 1),
        "eval_data": prompts(3, 2),
        "reward": "gold",
        "observe": [{"builtin": "correct", "name": "right", "every": 2}],
        "rollout": {"samples": 2, "max_new_tokens": 5},
        "train": {"steps": 3, "batch_size": 2, "lr": 1e-2, "checkpoint_every": 1},
    }
    train = given["train"] | stage.pop("train", {})
    stages = [given | {"train": train} | stage]
    whole = {"name": "run", "model": str(model), "output": str(output), "stages": stages}
    return whole | {"max_length": 120}


def run(raw: dict[str, Any]) -> Path:
    folder = run_recipe(parse_recipe(raw), base=Path.cwd(), announce=lambda text: None)
    return folder / "stages" / "01-rl"


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: None)


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
def test_a_stage_logs_them_and_evaluates_before_its_first_step(tiny_folder, tmp_path):
    stage = run(raw_recipe(tiny_folder, tmp_path, train={"monitor": {"every": 2}}))
    rows = pq.read_table(stage / "metrics.parquet").to_pylist()
    trained = [row for row in rows if not row["final"]]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)  # nothing is trained yet
    assert [row["ref_logprob"] is None for row in trained] == [False, True, False]
    assert [row["right"] is None for row in trained] == [False, True, False]
    assert all(row["distinct_across"] is not None for row in trained)
    assert rows[0]["eval/kl"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["eval/ref_logprob"] < 0
    assert rows[1]["eval/kl"] is None
    assert rows[-1]["final"] == 1
    assert rows[-1]["eval/right"] is not None
    samples = pq.read_table(stage / "samples.parquet").to_pylist()
    held_out = [s for s in samples if s["evaluation"] is not None]
    assert {s["evaluation"] for s in held_out} == {0, 3}
    before, after = ([s for s in held_out if s["evaluation"] == i] for i in (0, 3))
    assert [s["prompt_id"] for s in before] == [s["prompt_id"] for s in after]
    assert {s["step"] for s in before} == {0}
    assert np.mean([s["kl"] for s in after]) == pytest.approx(rows[-1]["eval/kl"])
    assert np.mean([s["ref_logprob"] for s in after]) == pytest.approx(rows[-1]["eval/ref_logprob"])
    trained_on = [s for s in samples if s["evaluation"] is None]
    assert trained_on
    assert all(s["policy_iteration"] is not None for s in trained_on)
    assert all(s["policy_iteration"] is None for s in held_out)


def needs(raw: dict[str, Any]) -> tuple[list[str], float]:
    """Roles of the stage, and the bytes of its frozen copies."""
    recipe = parse_recipe(raw)
    stage = open_stage(recipe, recipe.stages[0], RunFolder(recipe), Path.cwd())
    job = stage.job()
    assert job is not None
    always = memory(job).always
    return [n.name for n in stage.needs()], always.get("reference", 0.0)


def test_the_reference_is_held_and_counted_where_it_is_asked_for(tiny_folder, tmp_path):
    def asked(reference: Any, **more: Any) -> tuple[list[str], float]:
        train = {"monitor": {"reference": reference}}
        return needs(raw_recipe(tiny_folder, tmp_path, train=train, **more))

    assert asked(False) == (["policy"], 0.0)
    size = parameter_count(read_config(tiny_folder))
    for reference in ("auto", True):
        assert asked(reference) == (["policy", "reference"], 4.0 * size)
        assert asked(reference, lora={"rank": 2}) == (["policy", "reference"], 0.0)
    off = needs(raw_recipe(tiny_folder, tmp_path, train={"monitor": {"every": 0}}))
    assert off[0] == ["policy"]


def test_a_large_copy_has_to_be_asked_for(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.stages.train.SMALL", 1000)
    assert needs(raw_recipe(tiny_folder, tmp_path))[0] == ["policy"]
    assert needs(raw_recipe(tiny_folder, tmp_path, lora={"rank": 2}))[0] == ["policy", "reference"]
    train = {"monitor": {"reference": True}}
    assert needs(raw_recipe(tiny_folder, tmp_path, train=train))[0] == ["policy", "reference"]


def checked(raw: dict[str, Any]) -> None:
    recipe = parse_recipe(raw)
    check_recipe(recipe, RunFolder(recipe), Path.cwd())


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"reward": [{"builtin": "gold", "every": 2}]}, "every and samples are for observed"),
        ({"observe": {"builtin": "gold", "name": "repetition"}}, "which is a metric already"),
        ({"algorithm": "sft", "monitor": True}, "samples no responses to look at"),
    ],
)
def test_what_would_be_unused_is_refused(stage, message, tiny_folder, tmp_path):
    raw = raw_recipe(tiny_folder, tmp_path, **{k: v for k, v in stage.items() if k != "monitor"})
    if stage.get("algorithm") == "sft":
        raw["stages"] = [tw.sft_stage(train={"monitor": {"every": 1}})]
    with pytest.raises(ConfigError, match=message):
        checked(raw)
