"""Reordered CPU weights of either layout give the same products, only inside the block, never
stale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gnomon.rollout import linears
from gnomon.rollout.linears import packed_linears


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(96, 1300, bias=False)  # two blocks of columns and a part of one
        self.back = nn.Linear(1300, 96)
        self.narrow = nn.Linear(96, 4)
        self.half = nn.Linear(128, 128, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(self.back(self.wide(x)))


@pytest.fixture(autouse=True, params=["blocks", "onednn"])
def layout(request, monkeypatch):
    """Either layout, whichever this processor would get."""
    monkeypatch.setattr(linears, "onednn_is_faster", lambda: request.param == "onednn")
    return request.param


def test_onednn_is_for_processors_that_intel_did_not_make(monkeypatch, tmp_path):
    monkeypatch.undo()  # the fixture's stand-in
    decide = linears.onednn_is_faster.__wrapped__
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    says = {}
    for vendor in ("GenuineIntel", "AuthenticAMD"):
        file = tmp_path / vendor
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        monkeypatch.setattr(linears, "Path", lambda _, file=file: file)
        says[vendor] = decide()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert says == {"GenuineIntel": False, "AuthenticAMD": True}
    assert not decide()
    monkeypatch.setattr(linears, "Path", lambda _: tmp_path / "nowhere")
    assert not decide()


@pytest.mark.parametrize("rows", [1, 7, 32, 130])
def test_products_are_the_same_and_modules_are_restored(rows):
    model = Mixed()
    x = torch.randn(1, rows, 96)
    with torch.no_grad():
        expected = model(x)
        for _ in range(2):
            with packed_linears(model) as served:
                assert served == 2
                torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
                assert "forward" in vars(model.wide)
            assert not any("forward" in vars(module) for module in model.modules())
            model.wide.weight.data.mul_(2)  # which no version counter records
            expected = model(x)


def test_modules_are_restored_after_an_error_and_foreign_forwards_are_kept():
    model = Mixed()
    hooked = model.back.forward
    model.back.forward = hooked

    def fail() -> None:
        with packed_linears(model) as served:
            assert served == 1
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert vars(model.back)["forward"] is hooked
    assert "forward" not in vars(model.wide)


def test_copies_are_not_made_when_memory_is_short(monkeypatch):
    monkeypatch.setattr(linears, "_MEMORY_SHARE", 0.0)
    with packed_linears(Mixed()) as served:
        assert served == 0


def test_under_autocast_products_stay_narrow():
    model, x = Mixed(), torch.randn(5, 96)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(x)
        with packed_linears(model) as served:
            assert served == 0
            assert torch.equal(model(x), expected)
