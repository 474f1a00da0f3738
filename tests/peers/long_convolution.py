#!/usr/bin/env python3
"""Long convolutions in PyTorch: by torch.fft in fp32 padded to 2 L, and by FlashFFTConv where it can be imported.

    plain  y = conv(u, kernel)                      as bench fft_conv; a skip is part of the kernel at lag 0
    gated  y = q conv(k v, kernel)
    mixer  y = q conv(conv(k, taps) v, kernel)      as bench mixer: all of an H3 layer between its projections

A line of JSON for each pass, implementation and shape, with the relative L2 error of a few channels against the same
in double precision.
"""

import argparse
import functools

import peer

OPERATIONS = {"fft_conv": ("plain", "gated"), "mixer": ("mixer",)}
INPUTS = {"plain": 1, "gated": 3, "mixer": 3}
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
COMPARED_CHANNELS = 4


def shape(text):
    batch, length, width = (int(size) for size in text.split("x"))
    return batch, length, width


def convolve(torch, u, kernel):
    size = 2 * u.shape[-1]
    spectrum = torch.fft.rfft(u, n=size) * torch.fft.rfft(kernel, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., : u.shape[-1]]


def by_torch(torch, operation, inputs, kernel, taps):
    """In the precision of the filters, then rounded as the inputs are."""
    wide = [each.to(kernel.dtype) for each in inputs]
    if operation == "plain":
        y = convolve(torch, wide[0], kernel)
    else:
        q, k, v = wide
        if operation == "mixer":
            k = convolve(torch, k, taps)
        y = q * convolve(torch, k * v, kernel)
    return y.to(inputs[0].dtype)


def by_flash(convolution, operation, inputs, kernel, taps):
    if operation == "plain":
        return convolution(inputs[0], kernel)
    q, k, v = inputs
    if operation == "mixer":
        k = convolution(k, taps)
    return convolution(v, kernel, k, q)


def implementations(torch, dtype, length):
    """Names, and functions of (operation, inputs, kernel, taps) or the reason why there is none."""
    yield f"PyTorch {torch.__version__} rfft", lambda *arguments: by_torch(torch, *arguments)
    try:
        import flashfftconv
    except ImportError as error:
        yield "FlashFFTConv", str(error)
        return
    if dtype == torch.float32:
        yield "FlashFFTConv", "it takes 16 bits only"
        return
    size = max(256, 1 << (2 * length - 1).bit_length())
    convolution = functools.cache(lambda: flashfftconv.FlashFFTConv(size, dtype=dtype).cuda())
    yield "FlashFFTConv", lambda *arguments: by_flash(convolution(), *arguments)


def relative_error(values, expected):
    return ((values.double() - expected).norm() / expected.norm()).item()


def errors(torch, operation, inputs, filters, y, d_y, gradients):
    """Of y and of the worst gradient, on a few channels: none depends on another."""
    some = slice(0, COMPARED_CHANNELS)
    exact_inputs = [each[:2, some].detach().double().requires_grad_() for each in inputs]
    exact_filters = [each[some].detach().double() for each in filters]
    expected = by_torch(torch, operation, exact_inputs, *exact_filters)
    exact = torch.autograd.grad(expected, exact_inputs, d_y[:2, some].double())
    worst = max(relative_error(each[:2, some], one) for each, one in zip(gradients, exact))
    return relative_error(y[:2, some], expected.detach()), worst


def measure(torch, name, function, operation, options, sizes):
    batch, length, width = sizes
    dtype = getattr(torch, DTYPES[options.dtype])
    generator = torch.Generator("cuda").manual_seed(1)

    def normal(*dimensions):
        return torch.randn(*dimensions, device="cuda", generator=generator)

    inputs = [normal(batch, width, length).to(dtype).requires_grad_() for _ in range(INPUTS[operation])]
    decay = torch.exp(torch.linspace(0, -8, length, device="cuda"))
    kernel = (0.5 * normal(width, length) * decay).requires_grad_()
    taps = (normal(width, min(options.state, length)) / options.state**0.5).requires_grad_()
    wanted = inputs + [kernel] + ([taps] if operation == "mixer" else [])
    d_y = normal(batch, width, length).to(dtype)

    def forward():
        return function(operation, inputs, kernel, taps)

    y = forward()

    def backward():
        return torch.autograd.grad(y, wanted, d_y, retain_graph=True)

    y_error, gradient_error = errors(torch, operation, inputs, (kernel, taps), y.detach(), d_y, backward())
    tensor_bytes = batch * width * length * d_y.element_size()
    moved = {"forward": len(inputs) + 1, "backward": 2 * len(inputs) + 1}
    for step, call, error in (("forward", forward, y_error), ("backward", backward, gradient_error)):
        ms, repetitions = peer.median_ms(torch, call, options.seconds)
        peer.report(implementation=name, name=step, operation=operation, dtype=options.dtype, batch=batch,
                    length=length, width=width, ms=ms, repetitions=repetitions, bytes=moved[step] * tensor_bytes,
                    relative_error=error)


def main():
    parser = argparse.ArgumentParser(description="Long convolutions in PyTorch, as lines of JSON.")
    parser.add_argument("--benchmark", choices=OPERATIONS, default="mixer")
    parser.add_argument("--shapes", nargs="+", type=shape, default=[(64, 1024, 768)], metavar="BATCHxLENGTHxWIDTH")
    parser.add_argument("--state", type=int, default=64, help="taps of the mixer's first convolution")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seconds", type=float, default=0, help="repeat each for so long")
    parser.add_argument("--device", type=int, default=0)
    options = parser.parse_args()

    torch = peer.import_torch()
    torch.cuda.set_device(options.device)
    for sizes in options.shapes:
        for operation in OPERATIONS[options.benchmark]:
            for name, function in implementations(torch, getattr(torch, DTYPES[options.dtype]), sizes[1]):
                reason = function if isinstance(function, str) else None
                if reason is None:
                    try:
                        measure(torch, name, function, operation, options, sizes)
                    except (RuntimeError, AssertionError) as error:
                        reason = (str(error) or type(error).__name__).splitlines()[0]
                if reason is not None:
                    batch, length, width = sizes
                    peer.report(implementation=name, name="forward", operation=operation, dtype=options.dtype,
                                batch=batch, length=length, width=width, skipped=reason)
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
