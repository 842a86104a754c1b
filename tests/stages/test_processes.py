"""A recipe that several processes run: what they leave, one that is killed, what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from safetensors.torch import load_file
from torch import Tensor

from forked import CONTEXT
from gnomon.errors import ConfigError, RunError
from gnomon.models.ranks import Ranks
from gnomon.recipe.load import parse_recipe
from gnomon.runs.checkpoint import CheckpointStore
from gnomon.stages import processes
from gnomon.stages.processes import Place, join
from gnomon.training.strategy import ManyDevices
from ports import free_port

PATIENCE = 300


def recipe(model: Path, output: Path, **more: Any) -> dict[str, Any]:
    """A reward model, and a policy that is trained on it: adapters on one trunk. Then DPO on whole
    weights, with a cached reference."""
    prompts = {"path": "tunnel:prompts", "options": {"n": 8, "seed": 1}}
    rankings = {"path": "tunnel:rankings", "options": {"n": 8, "seed": 1}}
    train = {"batch_size": 4, "lr": 1e-3, "eps": 1e-3, "checkpoint_every": 1}
    common = {"lora": {"rank": 4}, "probes": 0}
    stages = [
        {"name": "rm", "algorithm": "reward_model", "data": rankings, **common}
        | {"train": {"steps": 1, **train}},
        {"name": "grpo", "algorithm": "grpo", "data": prompts, "reward": [{"model": "rm"}]}
        | {"rollout": {"samples": 4, "max_new_tokens": 6}, **common}
        | {"train": {"steps": 3, **train}},
        {"name": "dpo", "algorithm": "dpo", "data": rankings, "train": {"steps": 2, **train}},
    ]
    raw = {"name": "run", "model": str(model), "output": str(output), "max_length": 120}
    return raw | {"device": "cpu", "stages": stages} | more


def _one_of(
    rank: int, world: int, port: int, raw: dict[str, Any], at: int | None, resume: bool, said: str
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if world == 1:
        os.environ.pop("WORLD_SIZE")
    file = os.open(f"{said}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    import torch

    from gnomon.cli import main
    from gnomon.stages import run

    torch.set_num_threads(1)
    run.write_report = lambda folder: None  # drawing takes longer than all the rest
    if at is not None:
        _die_at(at)

    def command() -> None:
        run.run_recipe(parse_recipe(raw), base=Path.cwd(), resume=resume, announce=print)

    main.app = command  # type: ignore[assignment]
    sys.argv = ["gnomon", "run"]
    main.main()


def _die_at(step: int) -> None:
    """Kill this process at a step, its gradients computed and not added up yet."""
    real, taken = ManyDevices.add_up, [0]

    def add_up(self: ManyDevices, parameters: Any) -> None:
        taken[0] += 1
        if taken[0] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, parameters)

    ManyDevices.add_up = add_up  # type: ignore[method-assign]


def run_in(
    raw: dict[str, Any], folder: Path, world: int = 2, at: int | None = None, resume: bool = False
) -> list[tuple[int | None, str]]:
    """The exit code and the output of each process; ``at`` is where the second is killed."""
    port = free_port()
    said = str(folder / "said")
    started = [
        CONTEXT.Process(
            target=_one_of,
            args=(rank, world, port, raw, at if rank == 1 else None, resume, said),
        )
        for rank in range(world)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return [(code, Path(f"{said}-{i}").read_text()) for i, code in enumerate(codes)]


def models(output: Path) -> dict[str, Tensor]:
    """All weights of all models that a run saved."""
    found = {}
    for file in sorted((output / "run" / "stages").rglob("model/**/*.safetensors")):
        for name, tensor in load_file(file).items():
            found[f"{file.relative_to(output)}: {name}"] = tensor
    return found


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max()) for k in one)


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    ((code, said),) = run_in(recipe(tiny_folder, folder / "runs"), folder, world=1)
    assert code == 0, said
    return models(folder / "runs")


def test_a_killed_process_ends_the_run_and_it_resumes_with_two_or_one(
    tiny_folder: Path, alone: dict[str, Tensor], tmp_path: Path
) -> None:
    """Weights spread over two processes; the second is killed with its gradients computed."""
    raw = recipe(tiny_folder, tmp_path / "runs", strategy="fsdp2")
    (code, said), (killed, _) = run_in(raw, tmp_path, at=3)  # grpo's second
    assert killed == -signal.SIGKILL
    assert code == 1, said
    assert "lost touch with the others" in said
    assert "--resume" in said
    assert "Traceback" not in said
    checkpoints = tmp_path / "runs" / "run" / "stages" / "02-grpo" / "checkpoints"
    assert CheckpointStore(checkpoints).latest() == 1
    shutil.copytree(tmp_path / "runs", tmp_path / "again")

    (code, said), (other, silent) = run_in(raw, tmp_path, resume=True)
    assert (code, other) == (0, 0), said
    assert "2 processes on cpu, fsdp2" in said
    assert "rm: done already" in said
    assert silent == ""
    assert gap(models(tmp_path / "runs"), alone) <= 2e-6

    raw = recipe(tiny_folder, tmp_path / "again")  # without a strategy, in one process
    ((code, said),) = run_in(raw, tmp_path, world=1, resume=True)
    assert code == 0, said
    assert gap(models(tmp_path / "again"), alone) <= 2e-6
    policy = tmp_path / "again" / "run" / "stages" / "02-grpo" / "model"
    assert tf.AutoModelForCausalLM.from_pretrained(policy).num_parameters() > 0


def test_only_the_first_process_writes_and_speaks(
    tiny_folder: Path, alone: dict[str, Tensor], tmp_path: Path
) -> None:
    (code, said), (other, silent) = run_in(recipe(tiny_folder, tmp_path / "runs"), tmp_path)
    assert (code, other) == (0, 0), said
    assert "2 processes on cpu, ddp" in said
    assert silent == ""
    assert gap(models(tmp_path / "runs"), alone) <= 2e-6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "said-0", "said-1"]


def test_what_the_first_process_refuses_it_alone_says(tiny_folder: Path, tmp_path: Path) -> None:
    raw = recipe(tiny_folder, tmp_path / "runs")
    raw["stages"][1]["reward"] = [{"model": "no-such-stage"}]
    (code, said), (other, silent) = run_in(raw, tmp_path)
    assert code == 1
    assert "no-such-stage" in said
    assert (other, silent) == (0, "")


# -- what is refused -------------------------------------------------------------------------------


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two processes of one machine, whose other is not there."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def parsed(tiny_folder: Path, tmp_path: Path, **more: Any) -> Any:
    return parse_recipe(recipe(tiny_folder, tmp_path, **more))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_one_process_shares_with_nobody(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node N -m gnomon run"):
        join(parsed(tiny_folder, tmp_path, strategy=kind))
    assert join(parsed(tiny_folder, tmp_path)) is None


@pytest.mark.usefixtures("two")
def test_single_is_not_for_several(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torchrun started 2: run gnomon without torchrun"):
        join(parsed(tiny_folder, tmp_path, strategy="single"))


def test_layers_are_not_compiled_where_weights_are_spread(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: None
) -> None:
    monkeypatch.setattr(processes, "_connect", lambda *_: None)
    monkeypatch.setattr(Ranks, "join", classmethod(lambda cls: cls()))
    raw = recipe(tiny_folder, tmp_path, strategy="fsdp2")
    raw["stages"][1]["train"]["compile"] = True
    with pytest.raises(ConfigError, match=r"stage 'grpo': train\.compile is not offered"):
        join(parse_recipe(raw))
    joined = join(parse_recipe(raw | {"strategy": "ddp"}))
    assert joined is not None
    assert joined.kind == "ddp"


@pytest.mark.usefixtures("two")
def test_a_port_that_is_taken(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        with pytest.raises(RunError, match="another program has that port"):
            join(parsed(tiny_folder, tmp_path))


@pytest.mark.usefixtures("two")
def test_a_process_that_never_starts(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "JOIN", processes.timedelta(seconds=1))
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(RunError, match="did not find the others at") as raised:
        join(parsed(tiny_folder, tmp_path))
    assert "Nothing has begun" in str(raised.value)


def test_nccl_needs_a_gpu_for_each_process(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = parsed(tiny_folder, tmp_path, device="cuda")
    with pytest.raises(ConfigError, match="Set device: cpu, which uses gloo"):
        processes._check_device(asked, Place(1, 2, 1, 2), cuda=True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 GPUs"):
        processes._check_device(asked, Place(1, 2, 1, 2), cuda=True)


def test_torchrun_starts_a_run_and_nothing_else() -> None:
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    for arguments in (["sweep", "r.yaml"], ["run", "r.yaml", "--seeds", "0,1"]):
        done = subprocess.run(
            [sys.executable, "-m", "gnomon", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 1
        assert "torchrun shares a run's training (gnomon run), not gnomon" in done.stderr


def test_alone_a_process_is_all_of_them() -> None:
    ranks = Ranks()
    assert ranks.gather(3) == [3]
    assert ranks.first(lambda: "x") == ranks.told("x") == "x"
    with pytest.raises(ZeroDivisionError), ranks.together():
        raise ZeroDivisionError
