"""utils/runtime/device.py: device and precision."""

import warnings

import pytest
import torch
from torch import nn

from utils.runtime.device import Compute, choose_compute


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)


def test_without_a_gpu_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_compute(None, "fp32") == Compute(device=torch.device("cpu"), precision="fp32")


@pytest.mark.parametrize("device", [None, "cuda"])
def test_every_process_of_a_machine_has_its_own_gpu(device, two_gpus):
    assert choose_compute(device, None, local_rank=1) == Compute(device=torch.device("cuda:1"), precision="fp32")


def test_a_gpu_that_is_named_is_taken(two_gpus):
    assert choose_compute("cuda:0", "fp16", local_rank=1).device == torch.device("cuda:0")


def test_the_gpu_of_an_apple_computer_is_taken_when_it_is_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_compute("mps", None) == Compute(device=torch.device("mps"), precision="fp32")
    with pytest.raises(ValueError, match="--precision int8: expected a CPU with VNNI"):
        choose_compute("mps", "int8")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "--device gpu: no such device"),
        ("mps", "--device mps: torch finds no GPU of Apple on this machine"),
        ("meta", "--device meta: expected cpu, cuda, cuda:N or mps"),
        ("cuda:7", "--device cuda:7: torch finds 2 GPUs"),
    ],
)
def test_impossible_devices_are_refused(device, message, two_gpus, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        choose_compute(device, None)


def test_more_processes_than_gpus_are_refused(two_gpus):
    with pytest.raises(ValueError, match="torch finds 2 GPUs"):
        choose_compute(None, None, local_rank=2)


def test_bf16_is_the_choice_only_where_the_hardware_computes_in_it(monkeypatch):
    for capable, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda capable=capable: {"avx512_bf16": capable}, raising=False
        )
        assert choose_compute("cpu", None).precision == precision


def test_int8_is_for_cpus_that_sum_in_32_bits(monkeypatch, two_gpus):
    def say(**capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)

    for has_bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        say(avx_vnni=True, avx512_bf16=has_bf16)
        compute = choose_compute("cpu", "int8")
        assert compute.precision == "int8"
        with compute.autocast():
            assert nn.Conv3d(2, 3, 1)(torch.zeros(1, 2, 4, 5, 6)).dtype == dtype
    with pytest.raises(ValueError, match="--precision int8: expected a CPU with VNNI"):
        choose_compute("cuda", "int8")
    say(avx512_bf16=True)
    with pytest.raises(ValueError, match="--precision int8: expected a CPU with VNNI"):
        choose_compute("cpu", "int8")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_forward_passes_run_in_the_precision_and_weights_stay(precision, dtype):
    compute = Compute(device=torch.device("cpu"), precision=precision)
    network = compute.place(nn.Conv3d(2, 3, 3))
    with warnings.catch_warnings(), compute.autocast():
        warnings.simplefilter("error")
        assert network(torch.zeros(1, 2, 4, 5, 6)).dtype == dtype
    assert network.weight.dtype == torch.float32
    assert network.weight.is_contiguous(memory_format=torch.channels_last_3d)
