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


class Peers(unittest.TestCase):
    def run_script(self, name, arguments):
        """Where PyTorch is a module that finds no GPU."""
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "torch.py"), "w", encoding="utf-8") as file:
                file.write("__version__ = '0'\nclass cuda:\n    is_available = staticmethod(lambda: False)\n")
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
