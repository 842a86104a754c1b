"""On-line and iterative DPO: pairs, references by rounds, replay, resume, learning, people."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from online_zoo import (
    all_groups,
    loop,
    make,
    rollout,
    sides,
    split_steps,
    sum_logprob,
    trained,
    weights,
)

import tiny_world as tw
from command import Run, runs
from gnomon.algorithms.reference import REF_SUM, REF_TOKENS
from gnomon.algorithms.replay import Replay
from gnomon.algorithms.sampled_pairs import PairMaking
from gnomon.errors import ConfigError
from gnomon.losses.reduce import Totals
from gnomon.records import Comparison, TokenGroup, TokenResponse
from gnomon.training.loop import Loop

# -- pairs ----------------------------------------------------------------------------------------


def test_the_best_against_the_worst_and_nothing_else_is_kept() -> None:
    group, ties = PairMaking().group(rollout([0.3, 0.9, -1.0, 0.5]), "g")
    assert sides(group) == {(1, 2)}
    assert group is not None
    assert len(group.responses) == 2
    assert [r.scalar["reward"] for r in group.responses] == [0.9, -1.0]
    assert ties == 0


def test_every_pair_but_ties_and_near_ties() -> None:
    rewards = [0.0, 1.0, 1.0, 1.05, 3.0]
    group, ties = PairMaking("all", tie_margin=0.1).group(rollout(rewards), "g")
    expected = {(i, j) for i in range(5) for j in range(5) if rewards[i] - rewards[j] > 0.1}
    assert sides(group) == expected
    assert ties == 10 - len(expected) == 3
    exact, ties = PairMaking("all").group(rollout(rewards), "g")
    assert len(sides(exact)) == 9
    assert ties == 1


@pytest.mark.parametrize("tie", [False, True])
def test_an_answer_that_was_cut_off_loses_whatever_a_judge_says_that_compares(tie: bool) -> None:
    cut = rollout([0.9, 0.1], finish=["length", "eos"])
    said = (Comparison(0, 1, tie=tie),)
    judged = replace(cut, judgement=replace(cut.judgement, comparisons=said))
    assert sides(PairMaking("all", no_eos_penalty=5.0).group(judged, "g")[0]) == {(1, 0)}
    plain, ties = PairMaking("all").group(judged, "g")
    assert (sides(plain) == {(0, 1)}) if not tie else (ties == 1)
    both = replace(
        judged, completions=[replace(c, finish_reason="length") for c in cut.completions]
    )
    same, _ = PairMaking("all", no_eos_penalty=5.0).group(both, "g")
    assert tie or sides(same) == {(0, 1)}  # both were cut off: the judge decides


@pytest.mark.parametrize("pairs", ["best_worst", "all"])
def test_a_prompt_without_a_difference_gives_nothing(pairs: Any) -> None:
    group, ties = PairMaking(pairs, tie_margin=0.5).group(rollout([1.0, 1.5, 1.2]), "g")
    assert group is None
    assert ties == (1 if pairs == "best_worst" else 3)


def test_failed_rewards_and_equal_responses_are_in_no_pair() -> None:
    group, _ = PairMaking("all").group(rollout([None, 0.0, 1.0]), "g")
    assert sides(group) == {(2, 1)}
    alone, _ = PairMaking().group(rollout([None, 1.0]), "g")
    assert alone is None
    noisy = rollout([0.0, 1.0], ids=[(9, 20), (9, 20)])  # the judge contradicts itself
    assert PairMaking().group(noisy, "g") == (None, 1)


def test_a_cut_off_response_loses_the_penalty() -> None:
    seen = rollout([1.0, 0.5], finish=["length", "eos"])
    assert sides(PairMaking().group(seen, "g")[0]) == {(0, 1)}
    assert sides(PairMaking(no_eos_penalty=1.0).group(seen, "g")[0]) == {(1, 0)}


def test_a_whole_ranking_keeps_everyone_with_shared_ranks() -> None:
    making = PairMaking("all", tie_margin=0.1, whole=True)
    group, _ = making.group(rollout([0.0, 2.0, 2.05, 1.0]), "g")
    assert group is not None
    assert [r.scalar["rank"] for r in group.responses] == [4.0, 1.0, 1.0, 3.0]


# -- a round --------------------------------------------------------------------------------------


def test_the_rounds_groups_are_the_samples_best_and_worst() -> None:
    dpo = make("online_dpo")
    experience = dpo.experience(0)
    groups = {g.id: g for m in experience.minibatches for g in m.groups}
    rows = [list(experience.samples[i * 4 : i * 4 + 4]) for i in range(4)]
    for i, row in enumerate(rows):
        rewards = [r["reward"] for r in row]
        group = groups.get(f"0:{i}")
        if max(rewards) == min(rewards):
            assert group is None
            continue
        assert group is not None
        assert [r.scalar["reward"] for r in group.responses].count(max(rewards)) == 1
        (pair,) = group.comparisons
        assert group.responses[pair.better].scalar["reward"] == pytest.approx(max(rewards))
        assert group.responses[pair.worse].scalar["reward"] == pytest.approx(min(rewards))
    best = [max(r["reward"] for r in row) for row in rows]
    assert experience.metrics["reward_best"] == pytest.approx(sum(best) / 4)
    assert experience.metrics["pairs"] == len(groups)
    assert experience.metrics["prompts_used"] == len(groups) / 4


@pytest.mark.parametrize("pairs", ["best_worst", "all"])
def test_the_loss_is_dpos_equation_with_every_prompt_counting_once(pairs: str) -> None:
    """Equation 7 of the DPO paper by hand, on transformers' own log-probs."""
    dpo = make("online_dpo", pairs=pairs, beta=0.3)
    groups = all_groups(dpo, 0)
    tw.shake(dpo.roles["policy"], 0.05)
    loss, _ = tw.step_gradient(dpo, groups)
    total = 0.0
    for group in groups:
        change = [
            sum_logprob(dpo.roles["policy"], group.prompt_ids, r.ids)
            - sum_logprob(dpo.roles["reference"], group.prompt_ids, r.ids)
            for r in group.responses
        ]
        terms = [
            math.log1p(math.exp(-0.3 * (change[c.better] - change[c.worse])))
            for c in group.comparisons
        ]
        total += sum(terms) / len(terms)
    assert loss == pytest.approx(total / len(groups), rel=1e-4)
    assert abs(loss - math.log(2)) > 1e-3  # the policy has moved


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "ipo"},
        {"loss": "hinge"},
        {"loss": "robust", "label_smoothing": 0.1},
        {"loss": "plackett_luce", "pairs": "all"},
        {"length_desensitise": 0.5, "pairs": "all"},
        {"nll_coef": 0.2},
    ],
)
def test_each_variants_step_is_the_same_however_it_is_split(settings: dict[str, Any]) -> None:
    dpo = make("online_dpo", **settings)
    groups = all_groups(dpo, 0)
    tw.shake(dpo.roles["policy"], 0.02)
    split_steps(dpo, groups)


def test_a_round_without_any_pair_does_nothing(tmp_path: Path) -> None:
    dpo = make("online_dpo", tie_margin=10.0, iterations=2)
    before = weights(dpo)
    run = loop(dpo, tmp_path)
    run.run()
    assert all(torch.equal(before[n], p) for n, p in dpo.named_parameters())
    assert [row["prompts_used"] for row in trained(run)] == [0, 0]


def test_epochs_and_minibatches_visit_every_pair() -> None:
    dpo = make("online_dpo", epochs=3, minibatches=2)
    minibatches = dpo.experience(0).minibatches
    assert len(minibatches) == 6
    first = sorted(g.id for m in minibatches[:2] for g in m.groups)
    assert sorted(g.id for m in minibatches[4:] for g in m.groups) == first
    assert Totals.of(minibatches[0].groups).groups == len(minibatches[0].groups)


# -- the reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("every", [0, 1, 2])
def test_the_reference_is_the_policy_of_the_last_refresh(
    lora: bool, every: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Log-probs of the round are those of the policy at rounds 0, e, 2e, ... (0: the start)."""
    dpo = make("online_dpo", lora=lora, refresh_reference=every, iterations=5)
    assert ("reference" in dpo.roles) == (every != 1)
    at_start = [weights(dpo)]  # of each round
    seen: list[Any] = []
    experience = dpo.experience

    def watched(iteration: int) -> Any:
        made = experience(iteration)
        at_start.append(weights(dpo))
        seen.append([g for m in made.minibatches for g in m.groups])
        return made

    monkeypatch.setattr(dpo, "experience", watched)
    loop(dpo, tmp_path, lr=3e-2).run()
    at_start = at_start[1:]
    other = make("online_dpo", lora=lora, refresh_reference=1)
    for iteration, groups in enumerate(seen):
        source = 0 if every == 0 else iteration // every * every
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                parameter.copy_(at_start[source][name])
        for group in groups:
            for response in group.responses:
                expected = sum_logprob(other.roles["policy"], group.prompt_ids, response.ids)
                assert response.scalar[REF_SUM] == pytest.approx(expected, abs=2e-3)
    assert any(not torch.equal(at_start[0][n], at_start[4][n]) for n in at_start[0])


def test_a_surplus_discount_needs_the_references_tokens() -> None:
    group = all_groups(make("online_dpo", length_desensitise=0.5), 0)[0]
    assert all(r.token[REF_TOKENS].shape == (len(r.ids),) for r in group.responses)
    assert not any(r.token for r in all_groups(make("online_dpo"), 0)[0].responses)


def test_a_refresh_that_never_comes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"refresh_reference is 8.* would never move"):
        make("online_dpo", refresh_reference=8, iterations=8)


def test_one_sample_makes_no_pair() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        make("online_dpo", samples=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "plackett_luce"}, "pairs: all"),
        ({"replay_rounds": 3}, "replay above 0"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ({"replay": 1.0}, "less than 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make("online_dpo", **settings)


# -- replay and resume ----------------------------------------------------------------------------


def test_replay_has_its_share_and_reaches_back_so_far() -> None:
    replay = Replay(0.25, rounds=2, seed=3)
    assert replay.draw(9, 0) == []
    for r in range(4):
        replay.add([g for g in tw.rankings(seed=r) if g.id in ("pair", "three")])
    drawn = replay.draw(6, 5)
    assert len(drawn) == 2  # 2 / (6 + 2) = 0.25
    assert len(replay.draw(60, 5)) == 4  # all there is: two rounds of two
    known = [tuple(g.prompt_ids) for r in (2, 3) for g in tw.rankings(seed=r)]
    assert all(tuple(g.prompt_ids) in known for g in drawn)
    draws = {tuple(tuple(g.prompt_ids) for g in replay.draw(6, i)) for i in range(12)}
    assert len(draws) > 1


def test_replay_keeps_all_that_its_loss_reads() -> None:
    """Weights of comparisons, and which tokens count (an episode's tool output does not)."""
    responses = (
        TokenResponse([5, 6, 7], [True, False, True], scalar={"rank": 1.0, "reward": 2.0}),
        TokenResponse([8], [True], scalar={"rank": 2.0, "reward": 1.0}),
    )
    pairs = (Comparison(0, 1, weight=0.25, margin=0.5),)
    group = TokenGroup("g", [1, 2], responses, pairs, category="c")
    replay, again = Replay(0.5, rounds=2, seed=3), Replay(0.5, rounds=2, seed=3)
    replay.add([group])
    again.load_state_dict(json_round(replay.state_dict()))
    (kept,), (back,) = replay.draw(1, 0), again.draw(1, 0)
    assert kept is group
    assert back == group


def test_replayed_pairs_come_back_as_they_were_with_todays_reference(tmp_path: Path) -> None:
    dpo = make("online_dpo", replay=0.5, refresh_reference=1, iterations=2)
    first = all_groups(dpo, 0)
    dpo.end_iteration(dpo.experience(0), {})
    dpo.load_state_dict(json_round(dpo.state_dict()))
    tw.shake(dpo.roles["policy"], 0.05)
    again = {g.id: g for g in all_groups(dpo, 1)}
    old = [g for g in first if g.id in again]
    assert old
    for group in old:
        back = again[group.id]
        assert list(back.prompt_ids) == list(group.prompt_ids)
        assert back.comparisons == group.comparisons
        for a, b in zip(group.responses, back.responses, strict=True):
            assert list(a.ids) == list(b.ids)
            assert a.scalar["reward"] == b.scalar["reward"]
            expected = sum_logprob(dpo.roles["policy"], group.prompt_ids, b.ids)
            assert b.scalar[REF_SUM] == pytest.approx(expected, abs=2e-3)
            assert abs(a.scalar[REF_SUM] - b.scalar[REF_SUM]) > 1e-3


def json_round(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint does: all but tensors goes through JSON."""
    tensors: list[torch.Tensor] = []

    def pack(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        raise TypeError(value)

    def unpack(item: dict[str, Any]) -> Any:
        return tensors[item["tensor"]].clone() if item.keys() == {"tensor"} else item

    return json.loads(json.dumps(state, default=pack), object_hook=unpack)  # type: ignore[no-any-return]


@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_run_goes_on_to_the_same_end(
    lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With replay over three rounds and a reference refreshed every two."""

    def fresh() -> Any:
        return make(
            "online_dpo",
            lora=lora,
            replay=0.4,
            replay_rounds=3,
            refresh_reference=2,
            epochs=2,
            iterations=6,
        )

    whole = fresh()
    reference = loop(whole, tmp_path / "whole", every=4)
    reference.run()
    broken = fresh()
    iterate = Loop._iteration

    def killed(self: Loop, iteration: int) -> None:
        if iteration == 5:
            raise KeyboardInterrupt
        iterate(self, iteration)

    monkeypatch.setattr(Loop, "_iteration", killed)
    with pytest.raises(KeyboardInterrupt):
        loop(broken, tmp_path / "broken", every=4).run()
    monkeypatch.undo()
    resumed = fresh()
    second = loop(resumed, tmp_path / "broken", every=4)
    second.run(resume=True)
    assert all(torch.equal(weights(whole)[n], p) for n, p in resumed.named_parameters())
    for name in ("loss", "margin", "replayed", "reward"):
        rows = [[row[name] for row in trained(run)] for run in (reference, second)]
        assert rows[0] == rows[1]
    assert trained(reference)[-1]["replayed"] > 0


def test_without_its_memory_a_resumed_run_would_end_elsewhere(tmp_path: Path) -> None:
    """The test above can fail: the replayed pairs matter."""
    ends = []
    for keep in (True, False):
        dpo = make("online_dpo", replay=0.5, iterations=3)
        if not keep:
            dpo.algorithm.replay.draw = lambda fresh, iteration: []  # type: ignore[attr-defined]
        loop(dpo, tmp_path / str(keep)).run()
        ends.append(weights(dpo))
    assert any(not torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


# -- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_the_marker(seed: int, tmp_path: Path) -> None:
    dpo = make(
        "online_dpo",
        seed=seed,
        prompts=8,
        batch_size=8,
        iterations=30,
        pairs="all",
        refresh_reference=1,
        replay=0.25,
        epochs=2,
    )
    run = loop(dpo, tmp_path, lr=2e-2, every=50)
    run.run()
    rewards = [row["reward"] for row in trained(run)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert trained(run)[3]["accuracy"] > 0.5


# -- people ---------------------------------------------------------------------------------------


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs ``gnomon ARGS`` in ``tmp_path``: exit code, and what was said on one line."""
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: folder / "report.html")
    monkeypatch.setattr("gnomon.report.html.write_report", lambda folder: folder / "report.html")
    return runs(tmp_path, monkeypatch, capsys, "run", "recipe.yaml")


def write_recipe(tmp_path: Path, model: Path, judge: Any, **more: Any) -> None:
    rows = [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    stage: dict[str, Any] = {
        "name": "s",
        "algorithm": "online_dpo",
        "data": "prompts.jsonl",
        "train": {"steps": 3, "batch_size": 2, "lr": 1e-2, "checkpoint_every": 50},
        "rollout": {"samples": 3, "max_new_tokens": 6},
        "reward": judge,
        "settings": {"replay": 0.4, "refresh_reference": 2},
    }
    recipe = {"name": "run", "model": str(model), "max_length": 100, "stages": [stage | more]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))


STAGE = Path("runs/run/stages/01-s")


def asked(tmp_path: Path, number: int) -> list[dict[str, Any]]:
    file = tmp_path / STAGE / "queue" / f"round-{number:03d}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def answer(tmp_path: Path, number: int, *rows: dict[str, Any]) -> None:
    file = tmp_path / STAGE / "queue" / f"round-{number:03d}.labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def by_length(row: dict[str, Any]) -> dict[str, Any]:
    """The shorter text is better: what the function reward of the test says, too."""
    ranks = {r["id"]: len(r["text"]) for r in row["responses"]}
    return {"id": row["id"], "ranks": ranks}


def test_people_judge_every_round_and_the_run_ends_as_with_a_program(
    gnomon: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    """Three pauses, no round sampled anew; the weights are those of a run judged by a function."""
    write_recipe(tmp_path, tiny_folder, "human_queue")
    code, said = gnomon()
    assert code == 3, said
    assert "paused:" in said
    assert "round-001.labels.jsonl" in said
    assert "--resume" in said
    info = json.loads((tmp_path / STAGE / "stage.json").read_text())
    assert info["status"] == "paused"
    for number in (1, 2, 3):
        rows = asked(tmp_path, number)
        assert len(rows) == 2
        assert {r["id"] for r in rows[0]["responses"]} == {"r1", "r2", "r3"}
        assert rows[0]["messages"][0]["content"].startswith("question")
        before = (tmp_path / STAGE / "queue" / f"round-{number:03d}.jsonl").read_bytes()
        answer(tmp_path, number, by_length(rows[0]))
        code, said = gnomon("--resume")
        assert code == 3
        assert "1 of 2 prompts still have no label" in said
        answer(tmp_path, number, *map(by_length, rows))
        code, said = gnomon("--resume")
        assert code == (0 if number == 3 else 3), said
        assert (tmp_path / STAGE / "queue" / f"round-{number:03d}.jsonl").read_bytes() == before
    weights = (tmp_path / STAGE / "model" / "model.safetensors").read_bytes()

    (tmp_path / "judge.py").write_text(
        "def shorter(samples):\n    return [-float(len(s.text)) for s in samples]\n"
    )
    write_recipe(tmp_path, tiny_folder, {"function": "judge.py:shorter"})
    code, said = gnomon("name=program")
    assert code == 0, said
    other = tmp_path / "runs/program/stages/01-s/model/model.safetensors"
    assert other.read_bytes() == weights


def test_bad_labels_name_file_row_and_cure(gnomon: Run, tmp_path: Path, tiny_folder: Path) -> None:
    write_recipe(tmp_path, tiny_folder, "human_queue")
    assert gnomon()[0] == 3
    first, second = asked(tmp_path, 1)
    for bad, cure in (
        ({"id": second["id"], "ranks": {"r1": 1, "r2": 2}}, "rank every response"),
        ({"id": second["id"], "better": "r1", "worse": "r9"}, "the responses are r1, r2, r3"),
        ({"id": "007-0001", "better": "r1", "worse": "r2"}, "no prompt '007-0001'"),
        ({"id": second["id"], "bettr": "r1", "worse": "r2"}, "did you mean 'better'?"),
    ):
        answer(tmp_path, 1, by_length(first), bad)
        code, said = gnomon("--resume")
        assert code == 1
        assert "round-001.labels.jsonl, row 2" in said
        assert cure in said
    queue = tmp_path / STAGE / "queue" / "round-001.jsonl"
    queue.write_text(queue.read_text().replace('"text": "', '"text": "x', 1))
    answer(tmp_path, 1, by_length(first), by_length(second))
    code, said = gnomon("--resume")
    assert code == 1
    assert "asks about other responses" in said


def test_collecting_from_people_gives_their_judgements_to_the_next_stage(
    gnomon: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    write_recipe(
        tmp_path, tiny_folder, "human_queue", algorithm="collect", settings={"keep": "all"}
    )
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    del recipe["stages"][0]["train"]
    recipe["stages"].append(
        {
            "name": "dpo",
            "algorithm": "dpo",
            "data": "stage:s",
            "train": {"steps": 1, "batch_size": 2, "lr": 1e-3},
        }
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert gnomon()[0] == 3
    rows = asked(tmp_path, 1)
    assert len(rows) == 4
    labels = [
        {"id": rows[0]["id"], "ranking": ["r2", ["r1", "r3"]]},
        {"id": rows[1]["id"], "better": "r3", "worse": "r1"},
        {"id": rows[2]["id"], "skip": True},
    ]
    answer(tmp_path, 1, *labels)
    code, said = gnomon("--resume")
    assert code == 3
    assert "1 of 4" in said
    answer(tmp_path, 1, *labels, by_length(rows[3]))
    code, said = gnomon("--resume")
    assert code == 0, said
    groups = [json.loads(x) for x in (tmp_path / STAGE / "groups.jsonl").read_text().splitlines()]
    assert len(groups) == 3
    ranks = {r["text"]: r["rank"] for r in groups[0]["responses"]}  # they compared every pair
    assert [ranks[r["text"]] for r in rows[0]["responses"]] == [2, 1, 2]
    (pair,) = groups[1]["comparisons"]
    texts = {r["id"]: r["text"] for r in groups[1]["responses"]}
    assert texts[pair["better"]] == rows[1]["responses"][2]["text"]
    assert len(texts) == 2
    assert "human_queue compared none" in (tmp_path / STAGE / "skipped.txt").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"holdout": 0.25}, "not held-out prompts"),
        ({"reward": ["human_queue", "correct"]}, "judges alone"),
        ({"reward": "correct", "observe": "human_queue"}, "cannot be observed"),
        ({"rollout": {"samples": 1}}, "at least 2"),
    ],
)
def test_the_dry_run_refuses_what_people_cannot_do(
    gnomon: Run, tmp_path: Path, tiny_folder: Path, more: dict[str, Any], said: str
) -> None:
    write_recipe(tmp_path, tiny_folder, "human_queue", **more)
    code, heard = gnomon("--dry-run")
    assert code == 1
    assert said in heard
