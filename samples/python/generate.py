#!/usr/bin/env python3
"""A text from a model, the same again by chance from a copy of its state, and what the model makes of the next token.

    generate.py MODEL PROMPT [--tokens N] [--temperature T] [--seed S] [--backend cpu|vulkan|cuda]
"""

import argparse
import sys

import riverhorse


def show(text: str) -> None:
    print(text, end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A text from a model, twice from one state.")
    parser.add_argument("model", help="a model folder, .safetensors or .pt file")
    parser.add_argument("prompt")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--temperature", type=float, default=0.8, help="of the second text")
    parser.add_argument("--seed", type=int, default=7, help="of the second text")
    parser.add_argument("--backend", choices=("cpu", "vulkan", "cuda"), help="default: the best that is there")
    given = parser.parse_args()
    with riverhorse.Model(given.model, backend=given.backend) as model, model.session() as session:
        session.append(given.prompt)
        with session.clone() as other:
            result = session.generate(given.tokens, on_text=show)
            print()
            other.set_sampling(riverhorse.Sampling(temperature=given.temperature, top_k=40, seed=given.seed))
            other.generate(given.tokens, on_text=show)
            print()
        logits = session.logits()
        best = max(range(model.info.vocab_size), key=logits.__getitem__)
        rate = len(result.tokens) / result.seconds if result.seconds else 0.0
        print(f"{rate:.0f} tokens/s on {model.info.device_name}; next would come {model.decode([best])!r}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (riverhorse.RiverhorseError, OSError) as error:
        sys.exit(f"generate.py: {error}")
