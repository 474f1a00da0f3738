"""What the scripts of peers share: PyTorch or the reason why not, times by the GPU's clock, rows as lines of JSON.

`riverhorse bench ... --peers` runs scripts and lays their rows beside its own; by hand they run as well. A row is
{"implementation", "name", "dtype", "ms", "repetitions", ...}; {"skipped": why} alone: nothing can be measured.
"""

import json
import math
import statistics
import sys
import time


def report(**row):
    """What is not finite, which JSON has no word for, is null."""
    known = {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
    print(json.dumps(dict.fromkeys(row) | known), flush=True)


def leave(reason):
    report(skipped=reason)
    sys.exit(0)


def import_torch():
    """PyTorch, if it finds a GPU; else the script ends."""
    try:
        import torch
    except ImportError as error:
        leave(f"{error}; PyTorch is needed in {sys.executable}")
    if not torch.cuda.is_available():
        leave(f"PyTorch {torch.__version__} in {sys.executable} finds no GPU")
    return torch


def median_ms(torch, function, seconds=0):
    """Median device time of one call and the number of calls that it is of: the last half of `seconds`, or 21."""
    function()
    warm_up = time.monotonic()
    while time.monotonic() - warm_up < 0.2:  # an idle GPU runs at a fraction of its rate at first
        function()
        torch.cuda.synchronize()
    times, start = [], time.monotonic()
    while len(times) < 2 or (time.monotonic() - start < seconds if seconds else len(times) < 21):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    if seconds:
        times = times[len(times) // 2 :]
    return statistics.median(times), len(times)
