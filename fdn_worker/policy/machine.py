"""What the machine has, and what of it one order may ask for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fdn_worker.settings import WorkerSettings


def machine_cpus() -> float:
    """Processors that this process may use."""
    return float(len(os.sched_getaffinity(0)))


def machine_memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def offered_gpus(settings: WorkerSettings) -> int:
    """What one order may ask for."""
    return machine_gpus() if settings.limits.gpus is None else settings.limits.gpus


def machine_gpus(root: Path = Path("/")) -> int:
    """GPUs of NVIDIA's driver; their devices count where its own list cannot be seen, as in a container."""
    listed = [*(root / "proc/driver/nvidia/gpus").glob("*")]
    return len(listed or [*(root / "dev").glob("nvidia[0-9]*")])


def disk_free(folder: Path) -> int:
    """Free bytes on the disk where the folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
