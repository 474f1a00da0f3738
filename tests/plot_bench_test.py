"""samples/plot_bench: the picture, read back as XML, and the tables. Arguments: the script."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

SCRIPT = sys.argv.pop()
SVG = "{http://www.w3.org/2000/svg}"


def row(name, batch, length, percent, **others):
    return {"name": name, "dtype": "bf16", "batch": batch, "length": length, "width": 768, "state": 64,
            "conv": "chunked", "ran": "chunked", "device_ms": 15.7 / percent, "wall_ms": None,
            "percent_of_copy": percent, "relative_error": 9e-3,
            "relative_errors": {"y": 3e-3, "d_filter.d": 9e-3}} | others


def report(rows, **others):
    return {"schema": "riverhorse-bench-1", "benchmark": "mixer", "device": {"name": "A <GPU>"},
            "ceilings": {"copy_bytes_per_second": 3.01e12}, "rows": rows} | others


def model_report(benchmark, device, **others):
    row = {"name": benchmark, "dtype": "f16", "shape": "tiny, 1 sequence", "device_ms": 0.5, "wall_ms": 0.52, "tokens": 1,
           "tokens_per_second_wall": 1923.1, "bytes_per_second": 7.5e11, "percent_of_copy": 25.54, "ceiling": "copy"}
    return report([row | others], benchmark=benchmark, device={"name": device, "backend": "vulkan"})


def scaling_report(rates, batch="8 x 1024", more="", **others):
    """`rates`: tokens/s by ranks."""
    rows = []
    for ranks, rate in rates.items():
        suffix = more if ranks > 1 else ""
        share = 100 * rate / (ranks * rates[1]) if 1 in rates else None
        rows.append({"name": "scaling", "dtype": "bf16", "shape": f"125m, {ranks} x {batch} tokens{suffix}",
                     "ranks": ranks, "wall_ms": ranks * 8.192e6 / rate, "tokens_per_second_wall": rate,
                     "efficiency_percent": share, "sent_bytes": 5e8 * (ranks - 1),
                     "hidden_percent": None if ranks == 1 else 93.75})
    return report(rows, benchmark="scaling", **others)


ROWS = [row(name, 65536 // length, length, percent)
        for name, percent in (("forward", 80.0), ("backward", 50.0)) for length in (256, 1024, 4096)]
ROWS += [row("forward", 1, 1024, 8.0), row("forward", 64, 1000, 40.0)]
ROWS += [row("forward", 65536 // length, length, 5.0, state=128, ran="recurrence") for length in (256, 4096)]
PEER = {"implementation": "Peer & Sons", "operation": "mixer", "name": "forward", "dtype": "bf16", "batch": 64,
        "length": 1024, "width": 768}


class PlotBench(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, name, content):
        path = os.path.join(self.folder.name, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        return path

    def test_models_of_several_devices_in_one_table(self):
        first = self.write("a.json", model_report("decode", "A"))
        second = self.write("b.json", model_report("prefill", "B", device_ms=None, wall_ms=2995.4,
                                                   ceiling="gemm", tokens_per_second_wall=9.876))
        result, output = self.run_script(first, second, "--table")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse(os.path.exists(output))
        self.assertEqual(result.stdout.splitlines()[2:], [
            "| decode: tiny, 1 sequence | A (vulkan) | f16 | 0.5 | 1,923 | 750 | 25.5 |",
            "| prefill: tiny, 1 sequence | B (vulkan) | f16 | 2,995 | 9.88 |  |  |"])

    def test_models_of_several_devices_in_one_picture(self):
        first_token = {"name": "first token", "dtype": "f16", "shape": "tiny, 64 tokens", "tokens_per_second_wall": 5.0}
        slow = model_report("decode", "A", shape="tiny, 1 sequence, position 17", tokens_per_second_wall=10.0)
        fast = model_report("decode", "<B>", shape="tiny, 1 sequence, position 99", tokens_per_second_wall=1000.0)
        long = model_report("prefill", "A", shape="tiny, 64 tokens", tokens_per_second_wall=100.0)
        long["rows"] += [first_token, long["rows"][0] | {"dtype": "f32", "tokens_per_second_wall": 1.0},
                         long["rows"][0] | {"dtype": "f32", "tokens_per_second_wall": 10000.0}]
        root = self.picture(*(self.write(f"{i}.json", each) for i, each in enumerate((slow, fast, long))))
        texts = [text.text for text in root.iter(SVG + "text")]
        for text in ("Models, by device", "A (vulkan), f16", "<B> (vulkan), f16", "Decode, tokens a second",
                     "Prefill, tokens a second", "tiny, 1 sequence", "tiny, 64 tokens", "10", "100", "1,000"):
            self.assertIn(text, texts)
        dots = [circle for circle in root.iter(SVG + "circle") if circle.find(SVG + "title") is not None]
        self.assertEqual([dot.find(SVG + "title").text for dot in dots], [
            "tiny, 1 sequence, A (vulkan), f16: 10 tokens a second",
            "tiny, 1 sequence, <B> (vulkan), f16: 1,000 tokens a second",
            "tiny, 64 tokens, A (vulkan), f16: 100 tokens a second",
            "tiny, 64 tokens, A (vulkan), f32: 1 tokens a second",
            "tiny, 64 tokens, A (vulkan), f32: 10,000 tokens a second"])
        places = [float(dot.get("cx")) for dot in dots]
        # Equal ratios are equal distances, and each panel has its own.
        self.assertAlmostEqual(places[2], (places[3] + places[4]) / 2)
        self.assertEqual(places[:2], places[3:])
        self.assertEqual(dots[0].get("cy"), dots[1].get("cy"))
        self.assertLess(float(dots[1].get("cy")), float(dots[2].get("cy")))
        self.assertEqual(dots[0].get("class"), dots[2].get("class"))
        self.assertNotEqual(dots[0].get("class"), dots[1].get("class"))
        self.assertTrue(all(float(circle.get("cy")) < float(root.get("height")) for circle in root.iter(SVG + "circle")))

    def run_script(self, *arguments):
        output = os.path.join(self.folder.name, "plot.svg")
        command = [sys.executable, SCRIPT, *arguments, "--output", output]
        return subprocess.run(command, capture_output=True, text=True), output

    def picture(self, *arguments):
        result, output = self.run_script(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return ElementTree.parse(output).getroot()

    def refusal(self, *arguments):
        result, output = self.run_script(*arguments)
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertFalse(os.path.exists(output))
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        return result.stderr

    def test_a_line_for_each_way_in_a_panel_for_each_pass(self):
        peers = [PEER | {"device_ms": 3.0, "percent_of_copy": 4.0}]
        root = self.picture(self.write("a.json", report(ROWS + peers, seconds=2)), "--title", "Two & two")
        texts = [text.text for text in root.iter(SVG + "text")]
        self.assertEqual(texts[0], "Two & two")
        self.assertEqual(texts[1], "A <GPU>, bf16, 768 channels, copy 3,010 GB/s, each for 2 s")
        for text in ("Forward", "Backward", "chunked, N 64", "chunked: recurrence, N 128", "Peer & Sons",
                     "tokens a sequence", "256", "1K", "4K"):
            self.assertIn(text, texts)
        lines = list(root.iter(SVG + "polyline"))
        self.assertEqual(len(lines), 3)  # the peer has one point, and a line takes two
        # The largest batch of each length, and no length that is not a power of two.
        self.assertEqual([len(line.get("points").split()) for line in lines], [3, 2, 3])
        self.assertEqual(lines[0].find(SVG + "title").text, "chunked, N 64: 1.25 times the floor at 4K")
        self.assertNotEqual(lines[0].get("class"), lines[1].get("class"))
        # Equal times are level, slower ones higher; and all of it is inside.
        level = {pair.split(",")[1] for pair in lines[0].get("points").split()}
        self.assertEqual(len(level), 1)
        slower = float(lines[1].get("points").split()[0].split(",")[1])
        self.assertLess(slower, float(level.pop()))
        width, height = float(root.get("width")), float(root.get("height"))
        for circle in root.iter(SVG + "circle"):
            self.assertTrue(64 <= float(circle.get("cx")) <= width - 216 and 0 < float(circle.get("cy")) < height)
        # Labels do not cover each other.
        labels = [text for text in root.iter(SVG + "text") if text.get("class", "").startswith("fill")]
        ends = sorted(float(text.get("y")) for text in labels)
        self.assertTrue(all(b - a > 13 for a, b in zip(ends, ends[1:])), ends)
        self.assertIn("prefers-color-scheme: dark", root.find(SVG + "style").text)

    def test_tables(self):
        skipped = [PEER | {"skipped": "no memory"}]
        result, output = self.run_script(self.write("a.json", report(ROWS + skipped)), "--table")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse(os.path.exists(output))
        lines = result.stdout.splitlines()
        self.assertEqual(lines[0], "| forward, ms (% of copy): sequences x tokens x channels | chunked, N 64 | "
                                   "chunked: recurrence, N 128 | Peer & Sons |")
        self.assertEqual(lines[2], "| 256 x 256 x 768 | 0.196 (80) | 3.14 (5.0) |  |")
        self.assertIn("| 64 x 1,024 x 768 | 0.196 (80) |  | not run |", lines)
        self.assertIn("| 1 x 1,024 x 768 | 1.96 (8.0) |  |  |", lines)
        self.assertIn("| largest relative error | 3.0e-03 | 3.0e-03 |  |", lines)
        self.assertIn("| backward, ms (% of copy): sequences x tokens x channels | chunked, N 64 |", lines)

    def test_long_convolutions_and_several_files(self):
        ours = {"name": "forward", "dtype": "f16", "batch": 64, "width": 768, "device_ms": 0.2, "wall_ms": None,
                "percent_of_copy": 70.0}
        gated = PEER | {"name": "forward, gated", "operation": "gated", "device_ms": 1.0, "percent_of_copy": 9.0}
        first = self.write("a.json", report([ours | {"length": 256}], benchmark="fft_conv"))
        second = self.write("b.json", report([ours | {"length": 512}, gated], benchmark="fft_conv"))
        other = self.write("c.json", report([ours | {"length": 512}], benchmark="fft_conv", device={"name": "B"}))
        self.assertIn("c.json: another device", self.refusal(first, other))
        root = self.picture(first, second)
        texts = [text.text for text in root.iter(SVG + "text")]
        self.assertIn("Riverhorse", texts)
        self.assertIn("Peer & Sons, gated", texts)
        self.assertEqual(len(next(root.iter(SVG + "polyline")).get("points").split()), 2)

    def test_trainings_over_ranks(self):
        # A launcher's files of one training, each with one rank; and a divided one, which begins on one too.
        files = [self.write("two.json", scaling_report({1: 600e3, 2: 1170e3})),
                 self.write("four.json", scaling_report({1: 620e3, 4: 2232e3})),
                 self.write("divided.json", scaling_report({1: 610e3, 2: 1159e3, 8: 4392e3}, more=", shard gradients"))]
        self.assertIn("another benchmark", self.refusal(files[0], self.write("m.json", report(ROWS))))
        self.assertIn("there is no row", self.refusal(self.write("none.json", scaling_report({}))))
        strange = scaling_report({1: 1.0})
        strange["rows"][0]["shape"] = "all of it"
        self.assertIn("\"all of it\"", self.refusal(self.write("strange.json", strange)))
        root = self.picture(*files)
        texts = [text.text for text in root.iter(SVG + "text")]
        self.assertEqual(texts[:3], ["Training on several ranks", "A <GPU>, 125m, bf16, 8 x 1024 tokens",
                                     "the thin lines are N times one rank's"])
        for text in ("Tokens a second, of all ranks", "Of N times one rank's, %", "plain", "shard gradients", "ranks"):
            self.assertIn(text, texts)
        lines = list(root.iter(SVG + "polyline"))
        self.assertEqual([len(line.get("points").split()) for line in lines], [3, 3, 3, 3])
        self.assertEqual([line.find(SVG + "title").text for line in lines],
                         ["plain: 2,232,000 on 4", "shard gradients: 4,392,000 on 8",
                          "plain: 90.0 % on 4", "shard gradients: 90.0 % on 8"])
        # No training does better than N times one rank, of which the lines begin where theirs do.
        ideals = [path.get("d") for path in root.iter(SVG + "path") if "L544.0" in path.get("d")]
        self.assertEqual(len(ideals), 1)  # to 8 ranks, at the end of the axis
        self.assertTrue(ideals[0].startswith("M" + lines[1].get("points").split()[0] + " "), ideals)
        self.assertLess(float(ideals[0].rsplit(",", 1)[1]), float(lines[1].get("points").rsplit(",", 1)[1]))
        # Equal shares are level; and all of it is inside.
        levels = [line.get("points").rsplit(",", 1)[1] for line in lines[2:]]
        self.assertEqual(levels[0], levels[1])
        width, height = float(root.get("width")), float(root.get("height"))
        for circle in root.iter(SVG + "circle"):
            self.assertTrue(64 <= float(circle.get("cx")) <= width - 216 and 0 < float(circle.get("cy")) < height)

        result, _ = self.run_script(*files, "--table")
        self.assertIn("| 125m, bf16, 8 x 1024 tokens | 1 | 13.43 | 610,000 | 100.0 | 0.0 |  |", result.stdout)
        self.assertIn("| 125m, bf16, 8 x 1024 tokens, shard gradients | 8 | 14.92 | 4,392,000 | 90.0 | 3,500.0 | 93.8 |",
                      result.stdout)

        # Without one rank there is nothing to compare with, and one panel.
        alone = self.picture(self.write("alone.json", scaling_report({2: 100.0, 4: 190.0})))
        self.assertEqual([line.find(SVG + "title").text for line in alone.iter(SVG + "polyline")], ["125m: 190 on 4"])

    def test_what_is_wrong_is_named(self):
        self.assertIn("/no_such.json", self.refusal("/no_such.json"))
        self.assertIn("half.json", self.refusal(self.write("half.json", '{"schema": ')))
        self.assertIn("there is no row", self.refusal(self.write("x.json", report([], benchmark="decode"))))
        self.assertIn("not what riverhorse bench", self.refusal(self.write("x.json", [])))
        self.assertIn("bench ops is not drawn", self.refusal(self.write("x.json", report([], benchmark="ops"))))
        self.assertIn("there is no row", self.refusal(self.write("x.json", report([]))))
        self.assertIn("nothing to draw", self.refusal(self.write("x.json", report([PEER | {"skipped": "no"}]))))
        shapeless = {key: value for key, value in ROWS[0].items() if key != "width"}
        self.assertIn("the field 'width' is missing", self.refusal(self.write("x.json", report([shapeless]))))


if __name__ == "__main__":
    unittest.main()
