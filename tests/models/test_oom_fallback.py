"""fallback.py: out of GPU memory goes on with smaller batches, then on the CPU, once, and says so."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from models.focusnet import FocusNet
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Predictor
from models.s_net import SNetOutput
from utils.runtime.device import choose_compute

IMAGE = torch.zeros(9, 18, 13, dtype=torch.int16)


class HungrySNet(nn.Module):
    """Runs out of memory as long as autocast is on, as it is not on the CPU that is fallen back to."""

    def __init__(self, always=False, most_windows=100):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.always = always
        self.most_windows = most_windows
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        if self.always or torch.is_autocast_enabled("cpu") or len(image) > self.most_windows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return SNetOutput(logits=torch.zeros(len(image), 10, *image.shape[2:]), features=image, stem=image)


def cautious(preset, s_net, autocast, batch_size=1):
    predictor = Predictor(FocusNet(preset, s_net=s_net).eval(), preset, batch_size=batch_size, autocast=autocast)
    return OOMFallbackPredictor(predictor, choose_compute("cpu", "fp32"))


def test_it_goes_on_on_the_cpu_and_says_so(tiny_preset, caplog):
    s_net = HungrySNet()
    predictor = cautious(tiny_preset, s_net, torch.autocast("cpu", dtype=torch.bfloat16))
    assert predictor.predict(IMAGE).probabilities.shape == (10, *IMAGE.shape)
    assert predictor.notes == ["out of GPU memory: went on on the CPU"]
    assert "out of GPU memory" in caplog.text
    calls = s_net.calls
    predictor.predict(IMAGE)
    assert len(predictor.notes) == 1
    assert s_net.calls - calls == calls - 1  # the second case does not try the GPU again


def test_nothing_is_said_where_memory_suffices(tiny_preset):
    predictor = cautious(tiny_preset, HungrySNet(), nullcontext())
    predictor.predict(IMAGE)
    assert predictor.notes == []


def test_without_memory_on_the_cpu_the_case_fails(tiny_preset):
    predictor = cautious(tiny_preset, HungrySNet(always=True), nullcontext())
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(IMAGE)


def test_smaller_batches_come_before_the_cpu(tiny_preset):
    s_net = HungrySNet(most_windows=1)
    predictor = cautious(tiny_preset, s_net, nullcontext(), batch_size=4)
    few, many = (
        predictor.predict(IMAGE),
        cautious(tiny_preset, HungrySNet(), nullcontext(), batch_size=4).predict(IMAGE),
    )
    assert torch.equal(few.probabilities, many.probabilities)
    assert predictor.notes == [f"out of GPU memory: went on with {n} windows at once" for n in (2, 1)]
    assert not predictor.is_on_cpu
