#!/usr/bin/env python3
"""Training steps of GPT-2 of 124 million parameters in PyTorch, on random tokens, as a line of JSON.

torch.compile, autocast, PyTorch's fused attention, its fused AdamW; loss on logits of all tokens. A step is forward,
backward, clipping of the gradient and update.
"""

import argparse
import statistics
import time

import peer

LAYERS, HEADS, WIDTH, VOCABULARY = 12, 12, 768, 50304  # 50257 rounded up to whole tiles
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def make_model(torch, length):
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU("tanh"), nn.Linear(4 * WIDTH, WIDTH))

        def forward(self, x):
            batch, tokens, _ = x.shape
            heads = self.qkv(self.norm1(x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(*heads, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, WIDTH))
            return x + self.mlp(self.norm2(x))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(length, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm = nn.LayerNorm(WIDTH)
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, ids, targets):
            x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.norm(x), self.embedding.weight)
            return functional.cross_entropy(logits.float().view(-1, VOCABULARY), targets.view(-1))

    return Gpt2()


def main():
    parser = argparse.ArgumentParser(description="Training steps of GPT-2 124M in PyTorch, as a line of JSON.")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0, help="go on for so long; the median is of the last half")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    options = parser.parse_args()

    torch = peer.import_torch()
    torch.cuda.set_device(options.device)
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = make_model(torch, options.tokens).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    scaler = torch.cuda.amp.GradScaler(enabled=options.dtype == "f16")
    ids = torch.randint(VOCABULARY, (options.batch, options.tokens + 1), device="cuda")
    run = model if options.eager else torch.compile(model)

    def step():
        begin = time.monotonic()
        with torch.autocast("cuda", getattr(torch, DTYPES[options.dtype]), enabled=options.dtype != "f32"):
            loss = run(ids[:, :-1], ids[:, 1:].contiguous())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        return 1000 * (time.monotonic() - begin)

    name = f"PyTorch {torch.__version__} GPT-2 124M{' eager' if options.eager else ' torch.compile'}"
    sizes = {"batch": options.batch, "length": options.tokens, "dtype": options.dtype}
    try:
        for _ in range(5):
            step()
        times, begin = [], time.monotonic()
        while len(times) < 2 or (time.monotonic() - begin < options.seconds if options.seconds
                                 else len(times) < options.steps):
            times.append(step())
    except RuntimeError as error:
        peer.report(implementation=name, name="train", skipped=str(error).splitlines()[0], **sizes)
        return
    if options.seconds:
        times = times[len(times) // 2 :]
    peer.report(implementation=name, name="train", ms=statistics.median(times), repetitions=len(times),
                tokens=options.batch * options.tokens, **sizes)


if __name__ == "__main__":
    main()
