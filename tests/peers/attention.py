#!/usr/bin/env python3
"""Causal attention of PyTorch's fused kernels at the sizes of `riverhorse bench ops`, to lay beside ours.

Prints a line for each of PyTorch's backends (cuDNN's fused attention, FlashAttention): device time of the forward and
of the backward pass, median of 21, and TFLOP/s counted as ours are: 4 B H L^2 head_dim / 2 forward, 2.5 times that
backward. Needs PyTorch and an NVIDIA GPU; run it where the benchmark ran.
"""

import statistics
import sys

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    sys.exit(f"attention.py: {error}; PyTorch 2.5 or newer is needed")
if not torch.cuda.is_available():
    sys.exit("attention.py: PyTorch finds no GPU")


def time_ms(function, repeats=21):
    """Median device time of one call."""
    times = []
    for repeat in range(repeats + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        if repeat >= 3:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
attend = torch.nn.functional.scaled_dot_product_attention
for batch, heads, length, head_dim in [(32, 12, 1024, 64), (4, 12, 8192, 64)]:
    shape = (batch, heads, length, head_dim)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    d_y = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    flops = 4 * batch * heads * length * length * head_dim / 2
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        try:
            with sdpa_kernel(backend):
                y = attend(q, k, v, is_causal=True)
                forward = time_ms(lambda: attend(q, k, v, is_causal=True))
                backward = time_ms(lambda: torch.autograd.grad(y, (q, k, v), d_y, retain_graph=True))
        except RuntimeError as error:
            print(f"b{batch} h{heads} l{length} d{head_dim} bf16 {backend.name}: not run: {error}")
            continue
        print(
            f"b{batch} h{heads} l{length} d{head_dim} bf16 {backend.name}: forward {forward:.3f} ms "
            f"{flops / forward * 1e-9:.0f} TFLOP/s, backward {backward:.3f} ms {2.5 * flops / backward * 1e-9:.0f} TFLOP/s"
        )
