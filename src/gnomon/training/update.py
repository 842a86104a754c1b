"""What an optimizer step does to the trained weights, and what is said where numbers blow up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gnomon.algorithms.metric import MetricSums
from gnomon.errors import RunError
from gnomon.models.instants import OPTIMIZER, instant
from gnomon.models.merge import first_not_finite
from gnomon.models.ranks import heard
from gnomon.training.learner import Experience, Learner, Minibatch
from gnomon.training.optim import LoopOptions, clip_grads, grad_norm, lr_at, make_optimizer
from gnomon.training.strategy import Strategy


class Updater:
    """The trained weights with their optimizer.

    Args:
        learner: has the losses.
        options: see :class:`LoopOptions`.
        strategy: where the work is done.
        last_saved: says which checkpoint is intact.

    Attributes:
        parameters: everything that is trained, by name.
        taken: optimizer steps so far.
    """

    def __init__(
        self,
        learner: Learner,
        options: LoopOptions,
        strategy: Strategy,
        last_saved: Callable[[], str],
    ) -> None:
        self.learner = learner
        self.options = options
        self.strategy = strategy
        self.last_saved = last_saved
        self.parameters = dict(learner.named_parameters())
        self.optimizer = make_optimizer(
            list(self.parameters.items()),
            lr=options.lr,
            betas=options.betas,
            eps=options.eps,
            weight_decay=options.weight_decay,
            head_weight_decay=options.head_weight_decay,
        )
        self.taken = 0

    def begin(self, iteration: int) -> float:
        """Set the iteration's learning rate and return it."""
        lr = lr_at(
            iteration,
            self.options.iterations,
            peak=self.options.lr,
            schedule=self.options.schedule,
            warmup=self.options.warmup,
            floor=self.options.min_lr_ratio,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def step(
        self, experience: Experience, minibatch: Minibatch, sums: MetricSums, losses: list[float]
    ) -> float:
        """One optimizer step; the loss is the same however it is cut into micro-batches.

        Groups of weight 0 are left out; a step without any group left changes nothing. The host
        waits for the device once, when all micro-batches are done: it then learns their losses and
        the gradient's norm together.

        Raises:
            RunError: the loss or the gradient is not finite; the weights are as they were.
        """
        groups, iteration = minibatch.trained, experience.step.iteration
        self.optimizer.zero_grad(set_to_none=True)
        if not groups and not minibatch.text:
            self.taken += 1
            return 0.0
        step = self.learner.step_of(experience, self.strategy.total(minibatch.totals()))
        parts: list[tuple[Tensor, Sequence[str]]] = []
        for part, loss_of in (
            (groups, self.learner.loss),
            (minibatch.text, self.learner.text_loss),
        ):
            for batch, counts in self.learner.bench.shared(part):
                output = loss_of(batch, step)
                self.strategy.backward(output.loss if counts else output.loss * 0)
                if counts:
                    sums.add(output.metrics)
                    parts.append((output.loss.detach(), batch.group_ids))
        self.strategy.add_up(list(self.parameters.values()))
        norm = self._checked_norm(parts, losses, iteration)
        clip_grads(self.parameters.values(), norm, self.options.max_grad_norm)
        with instant(OPTIMIZER):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # nothing holds them while the policy samples
        self.taken += 1
        return norm

    def _checked_norm(
        self, parts: Sequence[tuple[Tensor, Sequence[str]]], losses: list[float], iteration: int
    ) -> float:
        """The gradient's norm, once it and the loss of each micro-batch are known to be finite.

        Args:
            parts: the loss of each micro-batch, and its groups' ids.
            losses: given the step's loss.

        Raises:
            RunError: one is not, here or in another process.
        """
        norm = grad_norm(self.parameters.values())
        on_device = [loss.double() for loss, _ in parts]
        device = on_device[0].device if on_device else norm.device
        *each, size = torch.stack([*on_device, norm.to(device)]).tolist()
        problem = None
        broken = [i for i, loss in enumerate(each) if not math.isfinite(loss)]
        if broken:
            loss, ids = each[broken[0]], parts[broken[0]][1]
            problem = self._not_finite(f"the loss is {loss}", iteration, ids)
        problem = self.strategy.agree(problem)
        if problem is None and not math.isfinite(size):  # which is the same in every process
            ids = [group for _, of in parts for group in of]
            problem = self._not_finite(f"the gradient's norm is {size}", iteration, ids)
        if problem is not None:
            raise heard(RunError(problem))
        losses.append(self.strategy.sum(sum(each)))
        return float(size)

    def finite(self, iteration: int) -> dict[str, Tensor]:
        """The weights, to be saved.

        Raises:
            RunError: they are not finite.
        """
        parameters = self._tensors()
        broken = self.strategy.agree(first_not_finite(parameters))
        if broken is not None:
            said = f"iteration {iteration}: the weights are not finite ({broken})"
            raise heard(RunError(self._blown_up(said)))
        return parameters

    def _not_finite(self, what: str, iteration: int, groups: Sequence[str]) -> str:
        where = f"iteration {iteration + 1}: {what}"
        broken = first_not_finite(self._tensors())
        if broken is not None:
            return self._blown_up(f"{where}, since the weights are not ({broken})")
        names = ", ".join(groups[:5]) + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")
        return (
            f"{where} on groups {names}; {self.last_saved()}. Look at those rows, and "
            "start again (name=...) without them, or with a lower train.lr, a longer train.warmup "
            "or a smaller train.max_grad_norm; --resume alone meets the same step again."
        )

    def _blown_up(self, what: str) -> str:
        lr = self.options.lr
        return (
            f"{what}: the steps were too large (train.lr is {lr:g}). {self.last_saved()}. Start "
            "again (name=...) with a lower train.lr, a longer train.warmup or a smaller "
            "train.max_grad_norm; --resume alone meets the same steps again."
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}
