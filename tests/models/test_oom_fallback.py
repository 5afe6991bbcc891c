"""models/oom_fallback.py: out of GPU memory, prediction continues on the CPU and notes it once."""

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
    """Runs out of memory while autocast is on, which the fallback to the CPU turns off."""

    def __init__(self, always=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.always = always
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        if self.always or torch.is_autocast_enabled("cpu"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return SNetOutput(logits=torch.zeros(len(image), 10, *image.shape[2:]), features=image, stem=image)


def fallback_predictor(preset, s_net, autocast):
    predictor = Predictor(FocusNet(preset, s_net=s_net).eval(), autocast=autocast)
    return OOMFallbackPredictor(predictor, choose_compute("cpu", "fp32"))


def test_it_continues_on_the_cpu_and_notes_it(tiny_preset, caplog):
    s_net = HungrySNet()
    predictor = fallback_predictor(tiny_preset, s_net, torch.autocast("cpu", dtype=torch.bfloat16))
    assert predictor.predict(IMAGE).probabilities.shape == (10, *IMAGE.shape)
    assert predictor.notes == ["out of GPU memory: continued on the CPU"]
    assert "out of GPU memory" in caplog.text
    calls = s_net.calls
    predictor.predict(IMAGE)
    assert len(predictor.notes) == 1
    assert s_net.calls - calls == calls - 1  # the second case does not try the GPU again


def test_nothing_is_noted_if_memory_suffices(tiny_preset):
    predictor = fallback_predictor(tiny_preset, HungrySNet(), nullcontext())
    predictor.predict(IMAGE)
    assert predictor.notes == []


def test_without_memory_on_the_cpu_the_case_fails(tiny_preset):
    predictor = fallback_predictor(tiny_preset, HungrySNet(always=True), nullcontext())
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(IMAGE)
