"""utils/runtime/device.py: device and precision."""

import itertools
import warnings

import pytest
import torch
from torch import nn

from utils.runtime import device
from utils.runtime.device import Compute, choose_compute, computes_bf16, copy_to, measure_convolutions, widest_float


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


class RecordedTensor:
    """On the CPU; notes how it is copied."""

    device = torch.device("cpu")

    def __init__(self):
        self.calls = []

    def pin_memory(self):
        self.calls.append("pinned")
        return self

    def to(self, device, non_blocking):
        self.calls.append((device.type, non_blocking))


@pytest.mark.parametrize(
    ("target", "expected"),
    [("cuda:1", ["pinned", ("cuda", True)]), ("mps", [("mps", True)]), ("cpu", [("cpu", False)])],
)
def test_copies_to_a_gpu_are_from_pinned_memory_and_copies_to_the_cpu_complete(target, expected):
    tensor = RecordedTensor()
    copy_to(tensor, torch.device(target))
    assert tensor.calls == expected


def test_a_gpu_that_is_named_is_taken(two_gpus):
    assert choose_compute("cuda:0", "fp16", local_rank=1).device == torch.device("cuda:0")


def test_the_gpu_of_an_apple_computer_is_taken_when_it_is_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_compute("mps", None) == Compute(device=torch.device("mps"), precision="fp32")
    with pytest.raises(ValueError, match="--precision int8: expected a CPU with VNNI"):
        choose_compute("mps", "int8")
    assert widest_float(torch.device("mps")) == torch.float32  # torch refuses float64 there
    assert widest_float(torch.device("cpu")) == widest_float(torch.device("cuda")) == torch.float64


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


class TimedCPU:
    """A CPU with bf16 instructions, whose convolutions are not computed: they take the seconds that a test gives."""

    def __init__(self, monkeypatch):
        self.timed = []
        monkeypatch.setattr(device, "_duration_s", self.duration_s)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        self.seconds = {torch.float32: [1.0] * 6, torch.bfloat16: [1.0] * 6}

    def gflops(self, fp32, bf16):
        operations = 2 * (32 * 2 * 64 * 64) * (32 * 27)  # output values x products in each, with one thread
        for dtype, speed in ((torch.float32, fp32), (torch.bfloat16, bf16)):
            self.seconds[dtype] = [operations / speed / 1e9] * 6

    def duration_s(self, task):
        features, weight = task.args
        assert features.dtype == weight.dtype
        assert features.is_contiguous(memory_format=torch.channels_last_3d)
        self.timed.append(features.dtype)
        return self.seconds[features.dtype][self.timed.count(features.dtype) - 1]


@pytest.fixture
def cpu(monkeypatch):
    device._fastest_on_cpu.cache_clear()
    yield TimedCPU(monkeypatch)
    device._fastest_on_cpu.cache_clear()


@pytest.mark.parametrize(
    ("fp32", "bf16", "said"),
    [
        (375, 216, "precision: fp32 (measured 375 against 216 GFLOP/s in bf16)"),
        (95.4, 371, "precision: bf16 (measured 371 against 95.4 GFLOP/s in fp32)"),
    ],
)
def test_the_faster_precision_is_measured_once(fp32, bf16, said, cpu, caplog):
    caplog.set_level("INFO")
    cpu.gflops(fp32, bf16)
    for _ in range(2):
        assert choose_compute("cpu", None).precision == said.split()[1]
    assert caplog.messages == [said]
    assert cpu.timed == [torch.float32, torch.bfloat16] * 6


def test_the_best_of_several_rounds_counts(cpu):
    cpu.seconds = {torch.float32: [9, 9, 9, 1, 9, 9], torch.bfloat16: [2] * 6}
    assert choose_compute("cpu", None).precision == "fp32"


def test_a_measurement_that_takes_long_ends_after_a_round(cpu, monkeypatch):
    monkeypatch.setattr(device.time, "perf_counter", itertools.count().__next__)
    assert choose_compute("cpu", None).precision == "bf16"
    assert cpu.timed == [torch.float32, torch.bfloat16]


def test_only_an_open_choice_on_a_cpu_with_bf16_is_measured(cpu, monkeypatch):
    for precision in ("fp32", "bf16", "fp16"):
        assert choose_compute("cpu", precision).precision == precision
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert choose_compute("cpu", None).precision == "fp32"
    assert cpu.timed == []


@pytest.mark.skipif(not computes_bf16(), reason="this CPU has no instructions for bf16")
def test_a_measurement_draws_no_random_numbers():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    speeds = measure_convolutions()
    assert torch.equal(torch.get_rng_state(), state)
    assert min(speeds["fp32"], speeds["bf16"]) > 0.1


def test_int8_is_for_cpus_that_sum_in_32_bits(monkeypatch, two_gpus, cpu):
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
