"""Sums that a GPU would add up in no fixed order are added in one there, so that runs repeat."""

from __future__ import annotations

import torch

from fake_cuda import fake_cuda
from gnomon.losses.reduce import segment_sum
from gnomon.models.gather import take

INDEX = torch.tensor([0, 0, 2, 0, 1, 2])


def test_gradients_of_rows_that_are_taken_again() -> None:
    x = torch.randn(3, 4)
    with fake_cuda() as cuda:
        taken = take(cuda.of(x).requires_grad_(), cuda.of(INDEX))
        assert taken.grad_fn is not None
        assert taken.grad_fn.name() == "IndexBackward0"  # index_put, which sorts first
        assert cuda.syncs == []
    here = take(x, INDEX)
    assert torch.equal(here, x[INDEX])


def test_sums_of_segments() -> None:
    values = torch.randn(6)
    with fake_cuda() as cuda:
        total = segment_sum(cuda.of(values).requires_grad_(), cuda.of(INDEX), 3)
        assert total.grad_fn is not None
        assert total.grad_fn.name() == "IndexPutBackward0"
        assert cuda.syncs == []
    other = torch.zeros(3).index_put((INDEX,), values, accumulate=True)  # as there
    assert torch.allclose(segment_sum(values, INDEX, 3), other)
