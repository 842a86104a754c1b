"""What spread weights read of torch, which calls it otherwise from version to version."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gnomon.models.sharded import _parameter_groups


@pytest.mark.parametrize(
    ("state", "groups"),
    [
        ({"_fsdp_param_groups": ["a", "b"], "_fsdp_param_group": "a"}, ["a", "b"]),
        ({"_fsdp_param_groups": []}, []),
        ({"_fsdp_param_group": "a"}, ["a"]),  # torch 2.11
        ({"_fsdp_param_group": None}, []),
    ],
)
def test_parameter_groups_of_either_torch(state: dict[str, object], groups: list[str]) -> None:
    assert _parameter_groups(SimpleNamespace(**state)) == groups
