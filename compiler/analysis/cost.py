"""Cost: the time that a kernel is expected to take, from the machine's measured rates (the roofline model)."""

from __future__ import annotations


def roofline_seconds(flops: int, traffic_bytes: int, flops_per_s: float, memory_bytes_per_s: float) -> float:
    """Seconds of a kernel that is bound by arithmetic or by memory traffic, whichever takes longer (Williams 2009)."""
    return max(flops / flops_per_s, traffic_bytes / memory_bytes_per_s)


def transfer_seconds(size_bytes: int, bytes_per_s: float, latency_s: float) -> float:
    """Seconds of one transfer: a fixed latency, then the bytes at the rate."""
    return latency_s + size_bytes / bytes_per_s
