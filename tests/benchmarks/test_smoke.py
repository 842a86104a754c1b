"""The benchmarks run, and refuse to compare sides that do different work."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="the benchmarks compare with TRL (the bench extra)")
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import common  # noqa: E402
import ranking  # noqa: E402
import rows  # noqa: E402
import training  # noqa: E402
import worker  # noqa: E402

LR = 1e-3  # large enough that a second step's loss tells whether the first was the same


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    return common.Workplace(common._tiny_model(folder / "model"), folder, None)


def measure(place, algorithm, **changes):
    """Both sides of a tiny job, in this process."""
    k = 1 if algorithm == "sft" else 2
    groups = rows.random_groups(8, k, place.vocabulary(), (4, 12), (4, 12))
    kept = place.keep(rows.in_steps(groups, 4, 2, "random"), algorithm)
    job = common.Job("gnomon", algorithm, str(place.model), kept, lr=LR, **changes)
    gnomon = worker.run_gnomon(replace(job, profile=True, microbatch_tokens=40))
    return {"gnomon": gnomon, "trl": worker.run_trl(replace(job, side="trl"))}


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [("sft", {"checkpointing": True}), ("reward_model", {}), ("dpo", {}), ("dpo", {"lora": True})],
)
def test_both_sides_do_the_same_work(place, algorithm, changes):
    sides = measure(place, algorithm, **changes)
    assert common.check_same_work(sides) < 1e-4
    # the second step's loss follows from the first step's gradient and update
    first, second = (m.losses for m in sides.values())
    tolerance = 0.05 if changes.get("lora") else 2e-3  # adapters start from other random A
    assert first == pytest.approx(second, rel=tolerance)
    for m in sides.values():
        assert len(m.seconds) == len(m.cpu_seconds) == 2
        assert m.peak_rss_gb > 0.1
    shares = [v for k, v in sides["gnomon"].speed.items() if k.startswith("share: ")]
    assert sum(shares) == pytest.approx(1)


def test_sides_on_other_rows_are_refused(place):
    sides = measure(place, "sft")
    sides["trl"].checks[0] *= 1.01
    with pytest.raises(SystemExit, match="differ"):
        common.check_same_work(sides)


def test_pairs_of_a_ranking_train_as_the_ranking_does(place):
    (group,) = rows.random_groups(1, 4, place.vocabulary(), (6, 6), (3, 9))
    pairs = rows.as_pairs(group)
    losses = []
    for name, groups in (("whole", [group]), ("cut", pairs)):
        kept = place.keep(rows.in_steps(groups, len(groups), 2, "random"), name)
        job = common.Job("gnomon", "reward_model", str(place.model), kept, lr=LR)
        losses.append(worker.run_gnomon(job).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    whole = ranking.computed(rows.in_steps([group], 1, 2, ""), trl=False)
    cut = ranking.computed(rows.in_steps(pairs, 6, 2, ""), trl=False)
    answers = sum(len(r.ids) for r in group.responses)
    assert (whole, cut) == (6 + answers, 6 * 6 + 3 * answers)


def test_rows_come_back_from_their_file(tmp_path):
    kept = rows.in_steps(rows.random_groups(3, 2, 50, (2, 5), (1, 4)), 2, 3, "random")
    rows.save(kept, tmp_path / "rows.json")
    assert rows.load(tmp_path / "rows.json") == kept


def test_parameters_that_multiply_tokens(place):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place.model)
    trunk, head = common.parameter_counts(model)
    V, H, F, L = place.vocabulary(), 48, 96, 2
    attention = H * H * 2 + H * (H // 2) * 2
    assert head == V * H
    assert trunk == L * (attention + 3 * H * F + 2 * H) + H


def test_matmul_rate_is_that_of_a_timed_product():
    seen = common.matmul_gflops(((256, 256, 256),))
    assert 0.05 < seen["wall"] < 1e5
    assert seen["cpu"] * torch.get_num_threads() > 0.2 * seen["wall"]


@pytest.mark.walk
def test_command_line_writes_its_figures(tmp_path, monkeypatch, capsys):
    out = tmp_path / "figures.json"
    command = ["training.py", "sft", "--tiny", "--sides", "gnomon", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "1", "--json", str(out)])
    training.main()
    said = json.loads(out.read_text())
    assert said["sides"]["gnomon"]["tokens_per_second"] > 0
    assert "tokens/s" in capsys.readouterr().out
