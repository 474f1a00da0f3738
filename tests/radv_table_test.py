"""tests/radv_table.py on a program that prints what radv_pipelines would. Arguments: the script."""

import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = sys.argv.pop()
STAND_IN = """#!/bin/sh
echo "device: Null hardware (RADV $RADV_FORCE_FAMILY)"
echo "shader                       constants    VGPRs SGPRs     LDS  scratch  spills  waves"
if [ "$RADV_PERFTEST" = cswave32 ]; then registers=24; else registers=48; fi
echo "sample                       1024           $registers   128   12800        0       0     32"
echo "sample                       64             40   128   14000        0       $SPILLS     32"
[ "$RADV_FORCE_FAMILY" = polaris10 ] || echo "advance.f16                       8   128       0        0       0     32"
echo "left out: 3 cases: none"
exit ${STATUS:-0}
"""


class RadvTable(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.program = os.path.join(folder.name, "radv_pipelines")
        with open(self.program, "w", encoding="utf-8") as file:
            file.write(STAND_IN)
        os.chmod(self.program, 0o700)

    def run_script(self, *arguments, spills=0, status=0):
        environment = os.environ | {"SPILLS": str(spills), "STATUS": str(status)}
        return subprocess.run([sys.executable, SCRIPT, self.program, *arguments], env=environment, capture_output=True,
                              text=True)

    def test_the_largest_of_each_shader_by_generation_and_width(self):
        result = self.run_script("--families", "polaris10,navi21")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(result.stdout.splitlines(), [
            "| VGPRs / LDS | GCN 4, polaris10 | RDNA 2, navi21 | RDNA 2, navi21, waves of 32 |",
            "|---|---|---|---|",
            "| advance |  | 8 / 0 | 8 / 0 |",
            "| sample | 48 / 14,000 | 48 / 14,000 | 40 / 14,000 |"])

    def test_spills_and_failures_are_errors(self):
        result = self.run_script("--families", "vega10", spills=3)
        self.assertEqual(result.returncode, 1)
        self.assertIn("vega10: sample (64) spills 3 registers", result.stderr)
        self.assertEqual(self.run_script("--families", "vega10", status=1).returncode, 1)
        skipped = self.run_script("--families", "vega10", status=77)
        self.assertEqual(skipped.returncode, 1)
        self.assertIn("vega10", skipped.stderr)
        self.assertEqual(self.run_script("--families", "vega11").returncode, 2)


if __name__ == "__main__":
    unittest.main()
