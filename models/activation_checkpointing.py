"""Feature maps that the backward pass computes anew instead of finding them kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(module: nn.Module, forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Run a module; in training the backward pass computes anew what it needs, from the input.

    Args:
        module: whose training mode counts, and whose running statistics are updated once.
        forward: its forward pass.
        features: the input.

    Returns:
        What `forward` returns.
    """
    if torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
        return forward(features)  # a compiler chooses by itself what to compute anew
    return checkpoint(
        forward,
        features,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), freeze_batchnorm_stats(module)),
    )


@contextmanager
def freeze_batchnorm_stats(module: nn.Module) -> Iterator[None]:
    """While it lasts, norms in training leave their running statistics as they are."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(num_batches_tracked)
