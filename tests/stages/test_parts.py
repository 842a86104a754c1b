"""Windows, reward models with a tokenizer of their own, ranks from rewards, collected rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, GenerationConfig

import tiny_world as tw
from gnomon.algorithms.ppo import PPO, PPOSettings
from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError, DataError, RunError
from gnomon.judges.learned import own_encoding
from gnomon.judges.protocol import Judge, Sample, SampleJudge, Score
from gnomon.models.heads import RewardNormaliser
from gnomon.models.load import LoadedModel, fetch, read_config
from gnomon.models.memory import parameter_count
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import LoadedReward, save_policy, save_reward_model
from gnomon.plan.memory import memory
from gnomon.recipe.schema import StageSpec
from gnomon.recipe.training import LoraSpec
from gnomon.records import Comparison, Group, Judgement, Message, Prompt
from gnomon.rollout.protocol import SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.runs.folder import RunFolder
from gnomon.stages.collect import Collector, CollectSettings, collect, ranks_from_rewards
from gnomon.stages.encoder import keep_template, recipe_encoder
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.stage import open_stage
from gnomon.tasks.tunnel.labellers import Labeller, Turns
from gnomon.tasks.tunnel.tokenizer import build_tokenizer
from gnomon.tasks.tunnel.world import generate_prompts
from gnomon.training.progress import Progress

ASK = Prompt("p", (Message("user", "What is 1 plus 2?"),))


def test_a_reward_model_with_another_tokenizer_reads_the_text_anew() -> None:
    trunk = tw.trunk()
    assert own_encoding(trunk, tw.tokenizer()) is None
    policys = build_tokenizer()
    policys.add_tokens(["another"])
    encode = own_encoding(trunk, policys)
    assert encode is not None
    prompt = tw.tokenizer().apply_chat_template(
        [{"role": "user", "content": ASK.messages[0].content}],
        add_generation_prompt=True,
        tokenize=False,
    )
    text = tw.tokenizer()("It is 3.", add_special_tokens=False).input_ids
    prompt_ids, ids = encode(Sample(ASK, "It is 3.", [999], [999]))
    assert prompt_ids == tw.tokenizer()(prompt, add_special_tokens=False).input_ids
    assert ids == [*text, tw.EOS]
    assert encode(Sample(ASK, "It is 3.", finished=False))[1] == text  # cut off: no EOS


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)])
def test_the_critic_starts_from_the_reward_model_only_if_it_reads_the_policys_tokens(
    monkeypatch: pytest.MonkeyPatch, lora: LoraSpec | None
) -> None:
    stage = StageSpec(name="ppo", algorithm="ppo", lora=lora)
    for policys, same in ((tw.tokenizer(), True), (build_tokenizer(), False)):
        if not same:
            policys.add_tokens(["another"])
        rewards = tw.trunk(seed=1)
        loaded = LoadedReward((Role("rm", rewards, head=tw.head()),), RewardNormaliser())
        builder = RoleBuilder(stage, LoadedModel(tw.trunk().model, policys, "", ""), seed=0)
        monkeypatch.setattr(builder, "reward", lambda folder, loaded=loaded: loaded)
        critic = builder.build(PPO.needs(PPOSettings()), Path("rm"))["value_model"]
        first = next(iter(rewards.model.parameters()))
        assert torch.equal(next(iter(critic.trunk.model.parameters())), first) == same
        assert critic.trainable
        assert critic.trunk is not rewards


def test_the_critics_copy_recomputes_as_the_policy_does_and_rewards_take_its_precision(
    tmp_path: Path,
) -> None:
    save_reward_model(tmp_path / "rm", Role("rm", tw.trunk(), head=tw.head()))
    stage = StageSpec(name="ppo", algorithm="ppo", train={"gradient_checkpointing": True})
    policys = LoadedModel(tw.trunk().model.bfloat16(), tw.tokenizer(), "", "")
    builder = RoleBuilder(stage, policys, seed=0)
    critic = builder.build(PPO.needs(PPOSettings()), tmp_path / "rm")["value_model"]
    assert critic.trunk.gradient_checkpointing
    reward = builder.reward(tmp_path / "rm").members[0].trunk
    assert not reward.gradient_checkpointing
    assert reward.model.dtype == critic.trunk.model.dtype == torch.bfloat16


def test_a_saved_model_keeps_the_recipes_template_and_stops_where_its_turns_end(
    tmp_path: Path,
) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    loaded = LoadedModel(tw.trunk().model, tokenizer, "", "")
    loaded.model.generation_config.eos_token_id = tw.EOS
    recipe = tw.make_recipe("tunnel", Path("runs"), tw.sft_stage(), template="chatml")
    keep_template(loaded, recipe_encoder(recipe, tokenizer))
    save_policy(tmp_path / "model", Role("policy", Trunk.from_loaded(loaded)))
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    messages = [{"role": "user", "content": "hello"}]
    written = saved.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert written.endswith("hello<|im_end|>\n<|im_start|>assistant\n")
    ends = GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id
    assert ends == [tw.EOS, saved.convert_tokens_to_ids("<|im_end|>")]


def test_a_template_of_the_tokenizers_own_is_left_as_it_is() -> None:
    tokenizer = build_tokenizer()
    loaded = LoadedModel(tw.trunk().model, tokenizer, "", "")
    before = tokenizer.chat_template, loaded.model.generation_config.eos_token_id
    recipe = tw.make_recipe("tunnel", Path("runs"), tw.sft_stage())
    keep_template(loaded, recipe_encoder(recipe, tokenizer))
    assert (tokenizer.chat_template, loaded.model.generation_config.eos_token_id) == before


def test_an_ensemble_of_whole_models_needs_the_memory_of_each() -> None:
    def separate(**settings: Any) -> int:
        stage = {"name": "rm", "algorithm": "reward_model", "data": "x", "settings": settings}
        recipe = tw.make_recipe("tunnel", Path("runs"), stage)
        opened = open_stage(recipe, recipe.stages[0], RunFolder(recipe), Path())
        return round(memory(opened.job()).persistent)

    one, heads = separate(members=1), separate(members=4)
    models = separate(members=4, share_trunk=False)
    assert heads - one < 0.01 * one
    copy = 4 * 3 * parameter_count(read_config(fetch("tunnel")))  # weight, two moments
    assert models - one == pytest.approx(3 * copy, rel=0.05)


def test_a_prompt_leaves_room_for_what_is_sampled_within_the_models_window() -> None:
    recipe = tw.make_recipe("tunnel", Path("runs"), tw.sft_stage())  # max_length 120
    long = Prompt("p", (Message("user", "word " * 60),))
    size = len(recipe_encoder(recipe, tw.tokenizer()).encode_prompt(long))
    assert 60 < size < 120
    recipe_encoder(recipe, tw.tokenizer(), new_tokens=120 - size).encode_prompt(long)
    with pytest.raises(DataError, match="max_"):
        recipe_encoder(recipe, tw.tokenizer(), new_tokens=121 - size).encode_prompt(long)
    with pytest.raises(ConfigError, match=rf"is 120.* takes {size} .*max_length: {size}"):
        recipe_encoder(recipe, tw.tokenizer(), context=size)
    own = recipe.model_copy(update={"max_length": None})  # as long as the model takes
    with pytest.raises(DataError, match="max_"):
        recipe_encoder(own, tw.tokenizer(), context=size).encode_prompt(long)
    with pytest.raises(ConfigError, match="leaves no room"):
        recipe_encoder(recipe, tw.tokenizer(), new_tokens=120)


def test_ranks_from_rewards() -> None:
    assert ranks_from_rewards([0.1, 0.9, 0.5], 0.0) == [3.0, 1.0, 2.0]
    assert ranks_from_rewards([0.5, 0.5, 0.1], 0.0) == [1.0, 1.0, 3.0]
    assert ranks_from_rewards([1.0, 0.95, 0.2], 0.1) == [1.0, 1.0, 3.0]


class ByLength(SampleJudge):
    """Prefers the longer answer; fails on the prompts with these ids."""

    name = "judge"

    def __init__(self, fail: Sequence[str] = ()) -> None:
        self.fail = fail

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [
            Score(None if s.prompt.id in self.fail else float(len(s.response_ids))) for s in samples
        ]


def collector(judge: Judge, **more: float) -> Collector:
    role = Role("policy", tw.trunk())
    engine = TorchEngine(role.trunk.model, tw.tokenizer(), eos_token_ids=(2, *range(8, 150)))
    params = SamplingParams(max_new_tokens=8)
    return Collector(engine, judge, CollectSettings(chunk=3), params, 4, seed=1, **more)


def quiet(total: int) -> Progress:
    return Progress("test", total, enabled=False, console=Console(quiet=True))


def test_collected_groups_rank_longer_answers_first_as_the_judge_said(tmp_path: Path) -> None:
    summary, skipped, *_ = collect(collector(ByLength()), tw.prompts(7), tmp_path, quiet(7))
    assert summary["groups"] + len(skipped) == summary["prompts"] == 7
    groups = read_groups(tmp_path / "groups.jsonl", kind="rankings").groups
    assert len(groups) == summary["groups"]
    for line in (tmp_path / "groups.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert [r["rank"] for r in row["responses"]] == sorted(r["rank"] for r in row["responses"])
        assert len({r["text"] for r in row["responses"]}) == len(row["responses"])


class FirstAgainstLast(Judge):
    """Compares one pair of each prompt's responses, and nothing of the prompt p1."""

    name = "one_pair"
    groupwise = True

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        pairs = [Comparison(len(g.responses) - 1, 0, weight=0.5, margin=2.0) for g in groups]
        return [
            Judgement(self.name, comparisons=() if g.prompt.id == "p1" else (pair,))
            for g, pair in zip(groups, pairs, strict=True)
        ]


def test_a_judge_that_compares_gives_its_comparisons(tmp_path: Path) -> None:
    _, skipped, *_ = collect(collector(FirstAgainstLast()), tw.prompts(4), tmp_path, quiet(4))
    assert any("p1: one_pair compared none of its responses" in s.reason for s in skipped)
    rows = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        ids = [r["id"] for r in row["responses"]]
        assert len(ids) == 2
        pair = {"better": ids[1], "worse": "1", "tie": False, "weight": 0.5, "margin": 2.0}
        assert row["comparisons"] == [pair]
    read = read_groups(tmp_path / "groups.jsonl", kind="preferences").groups
    assert {g.comparisons for g in read} == {(Comparison(1, 0, 0.5, 2.0),)}


def test_whose_turn_it_was_is_kept(tmp_path: Path) -> None:
    asked = generate_prompts(4, families=["arithmetic"])
    prompts = [replace(p, prompt=a) for p, a in zip(tw.prompts(4), asked, strict=True)]
    who = [Labeller("anna"), Labeller("ben")]
    collect(collector(Turns(who, [p.prompt.id for p in prompts])), prompts, tmp_path, quiet(4))
    rows = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    turns = {p.prompt.id: who[i % 2].name for i, p in enumerate(prompts)}
    assert rows
    assert [row["labeller"] for row in rows] == [turns[row["id"]] for row in rows]


def test_one_failed_judgement_is_listed_and_many_stop(tmp_path: Path) -> None:
    summary, skipped, *_ = collect(
        collector(ByLength(fail=["p1"]), max_errors=0.4), tw.prompts(6), tmp_path, quiet(6)
    )
    failed = [s for s in skipped if "the reward is None" in s.reason]
    assert len(failed) == 1
    assert "prompt p" in failed[0].reason
    assert summary["groups"] == 6 - len(skipped)
    with pytest.raises(RunError, match="the judge failed on 3 of 3"):
        collect(
            collector(ByLength(fail=[f"p{i}" for i in range(9)])),
            tw.prompts(6),
            tmp_path / "other",
            quiet(6),
        )


def test_chunks_do_not_change_what_is_collected(tmp_path: Path) -> None:
    one = collector(ByLength())
    other = Collector(
        one.engine, ByLength(), CollectSettings(chunk=100), one.params, one.samples, one.seed
    )
    collect(one, tw.prompts(7), tmp_path / "a", quiet(7))
    collect(other, tw.prompts(7), tmp_path / "b", quiet(7))
    name = "groups.jsonl"
    assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
