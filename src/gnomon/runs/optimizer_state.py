"""An optimizer's state by the names of its parameters: for checkpoints, and back from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnomon.errors import RunError

# How the optimizer computes, not what: these follow the machine that resumes.
_IMPLEMENTATION = ("foreach", "fused", "capturable")


def names_by_parameter(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[Tensor, str]:
    """The name of each of the optimizer's parameters, found by identity or by shared memory."""
    by_id = {id(t): name for name, t in reversed(list(parameters.items()))}
    by_memory = {(t.data_ptr(), t.shape): n for n, t in reversed(list(parameters.items()))}
    names: dict[Tensor, str] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            name = by_id.get(id(p)) or by_memory.get((p.data_ptr(), p.shape))
            if name is None:
                raise ValueError(
                    f"the optimizer has a parameter of shape {tuple(p.shape)} that is not among "
                    "the parameters to save"
                )
            names[p] = name
    return names


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in group.items() if k not in ("params", "param_names", *_IMPLEMENTATION)}


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The optimizer's state by parameter name, and its groups with their parameters' names."""
    names = names_by_parameter(optimizer, parameters)
    return {
        "state": {names[p]: dict(s) for p, s in optimizer.state.items()},
        "groups": [
            {**_settings(group), "params": [names[p] for p in group["params"]]}
            for group in optimizer.param_groups
        ],
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], names: Mapping[Tensor, str]
) -> None:
    """Put the saved state back by name.

    Not through ``load_state_dict``, which goes by position and casts state to the parameter's type.
    """
    optimizer.state.clear()
    for group, old in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(_settings(old))
        steps_on_device = group.get("capturable") or group.get("fused")
        for p in group["params"]:
            if names[p] not in saved["state"]:
                continue
            optimizer.state[p] = {
                key: value.to(p.device)
                if isinstance(value, Tensor) and (key != "step" or steps_on_device)
                else value
                for key, value in saved["state"][names[p]].items()
            }


def check_parameters(
    folder: Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    """Refuse a checkpoint whose parameters are not those of the run, by name, type and shape."""
    problems = [f"{n} is not in the checkpoint" for n in wanted if n not in saved]
    problems += [f"{n} is only in the checkpoint" for n in saved if n not in wanted]
    problems += [
        f"{n} is {_describe(saved[n])} in the checkpoint but {_describe(wanted[n])} in this run"
        for n in wanted
        if n in saved and _describe(saved[n]) != _describe(wanted[n])
    ]
    _refuse(folder, problems)


def check_groups(
    folder: Path,
    saved: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
) -> None:
    """Refuse a checkpoint whose parameter groups are not the optimizer's."""
    before = [set(group["params"]) for group in saved["groups"]]
    now = [{names[p] for p in group["params"]} for group in optimizer.param_groups]
    if len(before) != len(now):
        _refuse(folder, [f"{len(before)} parameter groups were optimised then, {len(now)} now"])
    moved = [n for old, new in zip(before, now, strict=True) for n in sorted(old ^ new)]
    _refuse(folder, [f"{n} is optimised in another group" for n in dict.fromkeys(moved)])


def _refuse(folder: Path, problems: Iterable[str]) -> None:
    listed = list(problems)
    if not listed:
        return
    more = f"; and {len(listed) - 5} more" if len(listed) > 5 else ""
    raise RunError(
        f"The checkpoint {folder} does not fit this run: {'; '.join(listed[:5])}{more}. The recipe "
        "(model, LoRA settings, trained parts) has changed since it was saved: undo the change to "
        "resume, or start under another run name."
    )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
