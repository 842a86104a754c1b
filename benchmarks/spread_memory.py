"""What each process holds while a stage's models are loaded and spread (strategy fsdp2).

    MALLOC_MMAP_THRESHOLD_=65536 torchrun --nproc-per-node 2 benchmarks/spread_memory.py [--whole]
        [--layers 8 --width 512 --words 16000]

Makes a random Llama, then PPO's three models of it (policy, reference, critic; float32), and prints
by process the most resident memory above what the process had before, in units of one model.
``--whole`` lets every process read whole models, as without ``gnomon.models.hollow``. The variable
makes glibc give back what is freed, as it does by itself where tensors are as large as in models
that need spreading. A tiny model goes first, so that what is imported on the way does not count.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig, LlamaForCausalLM

from gnomon.algorithms.on_policy_settings import PPOSettings
from gnomon.algorithms.ppo import PPO
from gnomon.models.hollow import hollow
from gnomon.models.load import load_causal_lm, load_tokenizer
from gnomon.models.ranks import Ranks
from gnomon.recipe.schema import StageSpec
from gnomon.stages.roles import RoleBuilder
from gnomon.training.strategy import ManyDevices
from gnomon.training.watch import PeakMemory


def make(folder: Path, layers: int, width: int, words: int) -> None:
    """A random model with the tunnel's tokenizer."""
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    LlamaForCausalLM(LlamaConfig(vocab_size=words, **sizes, **heads)).save_pretrained(folder)
    load_tokenizer("tunnel").save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--words", type=int, default=16000)
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    dist.init_process_group("gloo", timeout=timedelta(minutes=10))
    ranks = Ranks.join()
    for sizes in ((1, 64, 2000), (asked.layers, asked.width, asked.words)):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(ranks.told(made if ranks.rank == 0 else None))
            ranks.first(partial(make, folder, *sizes))
            peak, left, model = spread(ranks, folder, asked.whole)
            found = ranks.gather(f"at most {peak:.2f} models, {left:.2f} afterwards")
    if ranks.rank == 0:
        print(f"one model: {model:.2f} GB; 3 models, {ranks.world} processes")
        for rank, said in enumerate(found):
            print(f"process {rank}: {said}")
    dist.destroy_process_group()


def spread(ranks: Ranks, folder: Path, whole: bool) -> tuple[float, float, float]:
    """Peak and present memory of this process in models, and the GB of one."""
    memory = PeakMemory()
    before = now()
    with hollow(ranks.rank > 0 and not whole):
        loaded = load_causal_lm(folder)
        spec = StageSpec(name="ppo", algorithm="ppo")
        roles = RoleBuilder(spec, loaded, 0).build(PPO.needs(PPOSettings()), None)
    strategy = ManyDevices(ranks, init_device_mesh("cpu", (ranks.world,)))
    strategy.prepare(roles)
    model = sum(4 * p.numel() for p in loaded.model.parameters()) / 1e9
    peak, left = memory.metrics()["peak_rss_gb"] - before, now() - before
    return peak / model, left / model, model


def now() -> float:
    """Resident memory in GB."""
    return float(psutil.Process().memory_info().rss) / 1e9


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
