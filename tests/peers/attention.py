#!/usr/bin/env python3
"""Causal attention of PyTorch's fused kernels at the sizes of `riverhorse bench ops`, to lay beside ours.

Prints a line for each of PyTorch's backends (cuDNN's fused attention, FlashAttention): device time of the forward and
of the backward pass, median of 21, and TFLOP/s counted as ours are: 4 B H L^2 head_dim / 2 forward, 2.5 times that
backward. Needs PyTorch and an NVIDIA GPU; run it where the benchmark ran.
"""

import peer

torch = peer.import_torch()
try:
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    peer.leave(f"{error}; PyTorch 2.5 or newer is needed")


def time_ms(function):
    return peer.median_ms(torch, function)[0]


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
            f"{flops / forward * 1e-9:.0f} TFLOP/s, backward {backward:.3f} ms "
            f"{2.5 * flops / backward * 1e-9:.0f} TFLOP/s"
        )
