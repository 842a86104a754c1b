"""Ensembles by gnomon's names and by the paper's."""

import pytest
from pydantic import ValidationError

from gnomon.recipe.schema import RewardSpec


def test_the_papers_names_are_read_as_ours() -> None:
    given = ("mean", "min", "mean-std", "mean-var", "wco", "uwo")
    read = [RewardSpec(model="rm", ensemble=name).ensemble for name in given]  # type: ignore[arg-type]
    assert read == ["mean", "min", "mean-std", "mean-var", "min", "mean-var"]
    with pytest.raises(ValidationError):
        RewardSpec(model="rm", ensemble="median")  # type: ignore[arg-type]
