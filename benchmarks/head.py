"""The vocabulary head on a CPU: what share of its time are matrix products?

    python benchmarks/head.py                     # 384 response tokens, SmolLM2-135M's head
    python benchmarks/head.py --vocabulary 151936 --hidden 1024 --rows 200

Log-probabilities (and entropies that are only logged) of a micro-batch, forward and backward, next
to the three plain products they need (logits, gradient of the rows, gradient of the weight), in
processor seconds, best of ``--rounds``. Where the rows are more than are kept at once (2^25 logits)
the backward pass computes the logits again, and 75% is the most there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn

from common import cpu_seconds, machine, show
from gnomon.data.batch import Batch, pack
from gnomon.models.logprobs import OutputHead, token_logprobs
from gnomon.records import TokenGroup, TokenResponse


def products(rows: torch.Tensor, weight: torch.Tensor) -> None:
    """The three products, by torch alone."""
    logits = rows @ weight.T
    logits @ weight
    logits.T @ rows


def head(hidden: torch.Tensor, module: nn.Linear, batch: Batch, entropy: bool) -> None:
    """gnomon's head, forward and backward."""
    out = token_logprobs(hidden, OutputHead(module), batch, entropy=entropy, entropy_grad=False)
    torch.autograd.grad(out.logprobs.sum(), [hidden, module.weight])


def best(work: Callable[[], None], rounds: int) -> float:
    """The fewest processor seconds of several rounds."""
    times = []
    for _ in range(rounds):
        began = cpu_seconds()
        work()
        times.append(cpu_seconds() - began)
    return min(times)


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rows", type=int, default=384, help="response tokens")
    made.add_argument("--hidden", type=int, default=576)
    made.add_argument("--vocabulary", type=int, default=49152)
    made.add_argument("--rounds", type=int, default=5)
    args = made.parse_args()
    print(machine())
    torch.manual_seed(0)
    ids = torch.randint(args.vocabulary, (args.rows,)).tolist()
    batch = pack([TokenGroup("rows", [0], (TokenResponse(ids, [True] * args.rows),))])
    hidden = torch.randn(batch.num_tokens, args.hidden, requires_grad=True)
    module = nn.Linear(args.hidden, args.vocabulary, bias=False)
    rows, weight = hidden.detach()[batch.source_index], module.weight.detach()
    plain = best(lambda: products(rows, weight), args.rounds)
    lines = [["three plain products", plain, 1.0]]
    for name, entropy in (("log-probs", False), ("log-probs and entropies", True)):
        taken = best(lambda e=entropy: head(hidden, module, batch, e), args.rounds)
        lines.append([name, taken, plain / taken])
    show(f"the head, {args.rows} rows", ["what", "processor s", "share of products"], lines)


if __name__ == "__main__":
    main()
