"""Fixtures of the networks' tests."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch


@pytest.fixture
def saved_tensors() -> Callable[[], AbstractContextManager[list[torch.Tensor]]]:
    """A context that returns the list of all tensors that autograd saves for the backward pass while it is open."""

    @contextmanager
    def record() -> Iterator[list[torch.Tensor]]:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: saved.append(tensor) or tensor, lambda saved: saved
        ):
            yield saved

    return record
