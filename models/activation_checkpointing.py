"""Activation checkpointing: the backward pass recomputes activations that the forward pass does not keep."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(module: nn.Module, forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Run a module; in training keep only its input, from which the backward pass recomputes the rest.

    Args:
        module: its training mode decides; its running statistics are updated once.
        forward: its forward pass.
        features: the input.
    """
    if torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
        return forward(features)  # a compiler decides by itself what to recompute
    return checkpoint(
        forward,
        features,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), freeze_batchnorm_stats(module)),
    )


@contextmanager
def freeze_batchnorm_stats(module: nn.Module) -> Iterator[None]:
    """Context in which batch norms in training mode do not update their running statistics."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(num_batches_tracked)
