"""tests/peers: each script compiles, takes its arguments, and says in a line what it lacks. Arguments: the folder."""

import json
import os
import py_compile
import subprocess
import sys
import tempfile
import unittest

FOLDER = sys.argv.pop()
ARGUMENTS = {
    "attention.py": [],
    "gpt2_training.py": "--batch 2 --tokens 16 --dtype f16 --steps 1 --seconds 1 --device 0 --eager".split(),
    "long_convolution.py": "--benchmark fft_conv --shapes 2x16x4 1x32x4 --state 8 --dtype f32 --seconds 1".split(),
}


NO_GPU = """
__version__ = "0"
class cuda:
    is_available = staticmethod(lambda: False)
"""
# Takes every call, and computes nothing: the scripts run from end to end.
MOCK = """
import sys
from unittest.mock import MagicMock

class Tensor(MagicMock):
    shape = (2, 16, 4)
    item = lambda self: 1e-3
    element_size = lambda self: 2
    elapsed_time = lambda self, end: 2.5

class Module:
    parameters = lambda self: []
    cuda = lambda self: self
    def __call__(self, *inputs):
        return self.forward(*inputs)

torch = Tensor(name="torch")
torch.__version__ = "0"
torch.nn.Module = Module
torch.nn.ModuleList = list
torch.compile = lambda model: model
torch.autograd.grad = lambda y, inputs, d_y, **options: [Tensor() for _ in inputs]
sys.modules["torch"] = torch
sys.modules["flashfftconv"] = MagicMock()
sys.modules["flashfftconv"].FlashFFTConv.side_effect = [Tensor(), RuntimeError("no memory\\nat all")] * 9
"""


class Peers(unittest.TestCase):
    def run_script(self, name, arguments, torch=NO_GPU):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "torch.py"), "w", encoding="utf-8") as file:
                file.write(torch)
            environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
            command = [sys.executable, os.path.join(FOLDER, name), *arguments]
            return subprocess.run(command, capture_output=True, text=True, env=environment)

    def test_every_script_says_that_there_is_no_gpu(self):
        scripts = sorted(name for name in os.listdir(FOLDER) if name.endswith(".py") and name != "peer.py")
        self.assertEqual(scripts, sorted(ARGUMENTS))
        for name in scripts:
            result = self.run_script(name, ARGUMENTS[name])
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("finds no GPU", json.loads(result.stdout)["skipped"])

    def rows(self, name, arguments):
        result = self.run_script(name, arguments.split(), MOCK)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return [json.loads(line) for line in result.stdout.splitlines()]

    def test_rows_of_convolutions(self):
        rows = self.rows("long_convolution.py", "--benchmark fft_conv --shapes 2x16x4 --dtype bf16")
        self.assertEqual([(row["implementation"], row["operation"], row["name"]) for row in rows],
                         [("PyTorch 0 rfft", "plain", "forward"), ("PyTorch 0 rfft", "plain", "backward"),
                          ("FlashFFTConv", "plain", "forward"), ("FlashFFTConv", "plain", "backward"),
                          ("PyTorch 0 rfft", "gated", "forward"), ("PyTorch 0 rfft", "gated", "backward"),
                          ("FlashFFTConv", "gated", "forward")])
        tensor = 2 * 16 * 4 * 2
        self.assertEqual([row.get("bytes") for row in rows],
                         [2 * tensor, 3 * tensor, 2 * tensor, 3 * tensor, 4 * tensor, 7 * tensor, None])
        self.assertEqual(rows[-1]["skipped"], "no memory")
        for row in rows[:-1]:
            self.assertEqual((row["ms"], row["repetitions"], row["relative_error"]), (2.5, 21, 1e-3))
            self.assertEqual((row["batch"], row["length"], row["width"], row["dtype"]), (2, 16, 4, "bf16"))
        rows = self.rows("long_convolution.py", "--benchmark mixer --shapes 2x16x4 1x16x4 --dtype f32 --seconds 0.01")
        self.assertEqual([row["operation"] for row in rows], 6 * ["mixer"])
        self.assertEqual([row["implementation"] for row in rows if "skipped" in row], 2 * ["FlashFFTConv"])

    def test_rows_of_training(self):
        for arguments in ("--eager --steps 3", "--seconds 0.01 --dtype f16"):
            (row,) = self.rows("gpt2_training.py", "--batch 2 --tokens 16 " + arguments)
            self.assertEqual((row["name"], row["batch"], row["length"], row["tokens"]), ("train", 2, 16, 32))
            self.assertGreater(row["ms"], 0)

    def test_every_script_compiles(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in os.listdir(FOLDER):
                if name.endswith(".py"):
                    py_compile.compile(os.path.join(FOLDER, name), os.path.join(folder, name + "c"), doraise=True)

    def test_bad_arguments(self):
        for arguments in (["--shapes", "3x4"], ["--dtype", "f64"]):
            self.assertEqual(self.run_script("long_convolution.py", arguments).returncode, 2)


if __name__ == "__main__":
    unittest.main()
