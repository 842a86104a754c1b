"""The GRPO benchmark: both sides train on the same loss, and sides that do not are refused."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="the benchmarks compare with TRL (the bench extra)")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import common
import grpo
import grpo_worker

ARGS = SimpleNamespace(
    part="base", prompts=2, samples=4, new_tokens=8, prompt_tokens=24, eos=False,
    device="cpu", dtype="float32", microbatch_tokens=60, trl_vllm=False, trl_liger=False, steps=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    return common.Workplace(common._tiny_model(folder / "model"), folder, None)


def jobs(place, **changes):
    kept = place.keep(grpo.make_rows(ARGS, place, 2))
    sides = ("gnomon", "trl-accumulated")
    made = {s: replace(grpo.job_of(s, ARGS, place, kept), matmul=False) for s in sides}
    return {s: replace(job, lr=1e-3, **changes) for s, job in made.items()}


RUN = {"gnomon": grpo_worker.run_gnomon, "trl": grpo_worker.run_trl}


def measure(jobs):
    return {name: RUN[job.side](job) for name, job in jobs.items()}


def test_both_sides_train_on_the_same_loss(place):
    sides = measure(jobs(place, scripted=True))
    assert grpo.check_same_work(sides) < 1e-3
    for m in sides.values():
        assert len(m.losses) == len(m.grad_norms) == len(m.seconds) == 2
        assert m.losses[1] > 1e-5  # beta x KL, after the first update
    # and a side with another objective, or other completions, is refused
    name, job = "gnomon", jobs(place, scripted=True)["gnomon"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo_worker, "BETA", 1.0)
        with pytest.raises(SystemExit, match="step 1 differ"):
            grpo.check_same_work({**sides, name: RUN["gnomon"](job)})
        patch.setattr(grpo_worker, "BETA", 0.04)
        rewards = grpo_worker.scripted_rewards
        patch.setattr(grpo_worker, "scripted_rewards", lambda n: rewards(n)[::-1])
        with pytest.raises(SystemExit, match="step 0 differ"):
            grpo.check_same_work({**sides, name: RUN["gnomon"](job)})


@pytest.mark.parametrize("forced", [True, False])
def test_sampling_sides_count_their_tokens_and_phases(place, forced):
    for m in measure(jobs(place, forced=forced)).values():
        most = ARGS.prompts * ARGS.samples * ARGS.new_tokens
        assert all(n == most if forced else 0 < n <= most for n in m.tokens)
        for phases, seconds in zip(m.phases, m.seconds, strict=True):
            assert set(phases) <= set(grpo.PHASES)
            assert sum(phases.values()) == pytest.approx(seconds)
            assert min(phases.values()) >= 0
            assert phases["generation"] > 0
            assert phases["backward"] > 0


def test_every_group_of_the_script_has_spread():
    for samples in (2, 8, 16):
        rewards = grpo_worker.scripted_rewards(samples * 5)
        groups = [rewards[i : i + samples] for i in range(0, len(rewards), samples)]
        assert all(len(set(g)) > 1 for g in groups)


def test_long_prompts_have_the_length_asked_for(place):
    rows = grpo.make_rows(SimpleNamespace(**{**vars(ARGS), "part": "long"}), place, 2)
    assert {len(g.prompt_ids) for g in rows.groups} == {24}
    assert {len(r.ids) for g in rows.groups for r in g.responses} != {8}


def test_useful_operations_by_hand(place):
    rows = grpo.make_rows(ARGS, place, 2)
    V, H, F, L = place.vocabulary(), 48, 96, 2
    trunk = L * (H * H * 2 + H * (H // 2) * 2 + 3 * H * F + 2 * H) + H
    prompts = sum(len(g.prompt_ids) for g in rows.steps()[-1])
    wanted = 10 * (trunk * (prompts + 2 * 4 * 8) + V * H * 2 * 4 * 8)
    assert grpo.useful_flops(place, rows, ARGS) == wanted


def in_this_process(command, **_):
    """What a worker's process does, without another start of torch: test_smoke.py starts one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command[1:])
        runpy.run_path(command[1], run_name="__main__")
    return SimpleNamespace(returncode=0)


def test_command_line_writes_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "subprocess", SimpleNamespace(run=in_this_process))
    out = tmp_path / "figures.json"
    command = ["grpo.py", "--tiny", "--sides", "gnomon", "--new-tokens", "8", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--threads", "1", "--json", str(out)])
    grpo.main()
    said = json.loads(out.read_text())
    assert said["sides"]["gnomon"]["tokens_per_step"] == 4 * 8 * 8
    assert sum(said["sides"]["gnomon"]["shares"].values()) == pytest.approx(1)
    assert "s/step" in capsys.readouterr().out
