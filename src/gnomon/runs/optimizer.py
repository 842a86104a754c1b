"""An optimizer's state by its parameters' names, as checkpoints keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnomon.models.sharded import like, local

# How the optimizer computes, not what: these follow the machine that resumes.
_IMPLEMENTATION = ("foreach", "fused", "capturable")


def names_by_parameter(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[Tensor, str]:
    """The name of each of the optimizer's parameters, found by identity or by shared memory."""
    by_id = {id(t): name for name, t in reversed(list(parameters.items()))}
    by_memory = {_place(t): name for name, t in reversed(list(parameters.items()))}
    names: dict[Tensor, str] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            name = by_id.get(id(p)) or by_memory.get(_place(p))
            if name is None:
                raise ValueError(
                    f"the optimizer has a parameter of shape {tuple(p.shape)} that is not among "
                    "the parameters to save"
                )
            names[p] = name
    return names


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    return local(tensor).data_ptr(), tensor.shape


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in group.items() if k not in ("params", "param_names", *_IMPLEMENTATION)}


def same_groups(optimizer: torch.optim.Optimizer) -> list[list[dict[str, Any]]]:
    """The optimizer's groups, neighbours of one name together: they are one, parts of which are
    spread over processes and parts not."""
    found: list[list[dict[str, Any]]] = []
    for group in optimizer.param_groups:
        if found and group.get("name") is not None and found[-1][0].get("name") == group["name"]:
            found[-1].append(group)
        else:
            found.append([group])
    return found


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The optimizer's state by parameter name, and its groups with their parameters' names."""
    names = names_by_parameter(optimizer, parameters)
    return {
        "state": {names[p]: dict(s) for p, s in optimizer.state.items()},
        "groups": [
            {**_settings(groups[0]), "params": [names[p] for g in groups for p in g["params"]]}
            for groups in same_groups(optimizer)
        ],
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], names: Mapping[Tensor, str]
) -> None:
    """Put the saved state back by name.

    Not through ``load_state_dict``, which goes by position and casts state to the parameter's type.
    """
    optimizer.state.clear()
    pairs = zip(same_groups(optimizer), saved["groups"], strict=True)
    for group, old in ((group, old) for groups, old in pairs for group in groups):
        group.update(_settings(old))
        steps_on_device = group.get("capturable") or group.get("fused")
        for p in group["params"]:
            if names[p] not in saved["state"]:
                continue
            optimizer.state[p] = {
                key: (like(value, p) if value.shape == p.shape else value).to(p.device)
                if isinstance(value, Tensor) and (key != "step" or steps_on_device)
                else value
                for key, value in saved["state"][names[p]].items()
            }
