"""Serving figures worked by hand."""

from __future__ import annotations

import pytest

from gnomon.plan.cost import GRAPHED
from gnomon.plan.hardware import parse_hardware
from gnomon.plan.serving import BITS, OWN, Load, Serving, serving, table
from gnomon.plan.shapes import shape_of

LLAMA = shape_of("meta-llama/Llama-3.1-8B")
LOAD = Load(prompt=1000, answer=200, together=8)


def rows(hardware: str = "H100") -> dict[str, Serving]:
    found = serving(LLAMA, parse_hardware(hardware), LOAD)
    return {f"{row.engine} {row.weights}": row for row in found}


def test_memory_is_weights_cache_and_the_engine() -> None:
    vllm = rows()["vllm bfloat16"]
    # 32 layers x 2 x 8 heads x 128 numbers x 2 bytes a token
    cache = 8 * 1200 * 32 * 2 * 8 * 128 * 2
    assert vllm.memory == pytest.approx(2 * 8.03e9 + cache + OWN["vllm"], rel=0.01)


def test_one_answer_reads_the_weights_and_its_cache_for_each_token() -> None:
    vllm = rows()["vllm bfloat16"]
    read = 2 * 7.504e9 + 1100 * 32 * 2 * 8 * 128 * 2
    computed = 2 * 7.504e9 / (0.45 * 989e12)
    by_hand = 1 / (read / (0.6 * 3.35e12) + computed + 32 * GRAPHED)
    assert vllm.one == pytest.approx(by_hand, rel=0.02)
    assert vllm.one < vllm.all < 8 * vllm.one


def test_the_first_token_takes_the_prompt_s_arithmetic() -> None:
    vllm = rows()["vllm bfloat16"]
    flop = 2 * 6.98e9 * 1000
    rate = 0.5 * 4096 / 6096 * 989e12
    assert vllm.first_token == pytest.approx(flop / rate + 32 * GRAPHED, rel=0.05)


def test_fewer_bits_are_smaller_and_faster() -> None:
    found = [row for row in rows().values() if row.engine == "llama.cpp"]
    bits = [BITS[row.weights] for row in found]
    assert bits == sorted(bits, reverse=True)
    assert [row.memory for row in found] == sorted((r.memory for r in found), reverse=True)
    assert [row.one for row in found] == sorted(row.one for row in found)


def test_what_does_not_fit_is_said() -> None:
    found = rows("RTX3090")
    assert not rows("L4")["torch bfloat16"].memory < 15e9
    assert found["llama.cpp Q4_K_M"].fits
    seventy = serving(shape_of("meta-llama/Llama-3.1-70B"), parse_hardware("4xH100"), LOAD)
    fits = {f"{r.engine} {r.weights}": r.fits for r in seventy}
    assert fits["vllm bfloat16"]  # divided over the four
    assert not fits["torch bfloat16"]
    assert fits["llama.cpp Q4_K_M"]


def test_the_table_says_what_is_too_large() -> None:
    fitting = table(list(rows().values()), LOAD, parse_hardware("8xH100"))
    assert fitting.row_count == len(rows())
    assert not any("too large" in str(cell) for cell in fitting.columns[2].cells)
    seventy = serving(shape_of("meta-llama/Llama-3.1-70B"), parse_hardware("L4"), LOAD)
    assert all(
        "too large" in str(cell)
        for cell in table(seventy, LOAD, parse_hardware("L4")).columns[2].cells
    )
