"""What this machine can do fast."""

import ctypes
import os
import platform
import threading
from contextlib import suppress

import torch

NICE = 10  # of a thread that steps aside: 0 is usual, 19 the lowest priority


def default_device() -> str:
    """`cuda` if torch sees a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def speed_features(device: str | torch.device = "cpu") -> dict[str, bool]:
    """Which speed features training turns on by itself on `device`.

    Returns:
        `bf16`: autocast to bfloat16, where there are units for it (without them it is slower than fp32);
        `channels_last`: images and weights stored with channels innermost, which the convolutions of x86 processors and
        GPUs prefer.
    """
    if torch.device(device).type == "cuda":
        return {"bf16": torch.cuda.is_bf16_supported(), "channels_last": True}
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return {"bf16": x86 and bool({"avx512_bf16", "amx_bf16"} & cpu_flags()), "channels_last": x86}


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next step instead of giving it back to the system each time.

    A training step allocates the same tensors again and again; with glibc, which returns large ones at once, taking them anew
    costs a tenth of the time on two cores. It holds for the whole process, so only commands of our own should call it.

    Returns:
        Whether the C library took the settings (only glibc knows them).
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # names and values as in glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(name, value) for name, value in ((m_mmap_max, 0), (m_trim_threshold, -1), (m_top_pad, 512 << 20)))


def give_back_memory() -> None:
    """Ask the C library (glibc does) to return freed memory to the system: it keeps much of what blocks and arrivals had."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def step_aside() -> None:
    """Let this thread wait where others want the processor: it gets about a tenth of their share, and all that they leave.

    Work in the background then hardly slows a request down, even on one core. Only Linux has priorities of threads; elsewhere
    nothing happens. The threads that this one starts take it over.
    """
    if platform.system() == "Linux":
        with suppress(OSError):  # not everywhere is it allowed
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def cpu_flags() -> set[str]:
    """The processor's instruction sets as Linux names them; empty on other systems."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((set(line.split()) for line in file if line.startswith(("flags", "Features"))), set())
    except OSError:
        return set()


def device_name(device: str | torch.device = "cpu") -> str:
    """The processor's name for people, such as `NVIDIA A100` or `AMD EPYC`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
