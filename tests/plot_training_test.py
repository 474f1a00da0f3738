"""samples/plot_training: what it draws, read back as XML. Arguments: the script."""

import json
import math
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

SCRIPT = sys.argv.pop()
SVG = "{http://www.w3.org/2000/svg}"
HEADER = "step,loss,learning_rate,tokens_per_second,validation_loss\n"


def row(step, validation=None):
    return {
        "step": step,
        "loss": 5 * math.exp(-step / 40),
        "learning_rate": 1e-3 * step,
        "tokens_per_second": 90000 + step,
        "validation_loss": validation,
    }


class PlotTraining(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, name, text):
        path = os.path.join(self.folder.name, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def plot(self, *arguments):
        output = os.path.join(self.folder.name, "page.html")
        command = [sys.executable, SCRIPT, *arguments, "--output", output]
        result = subprocess.run(command, capture_output=True, text=True)
        return result, output

    def page(self, *arguments):
        result, output = self.plot(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return ElementTree.parse(output).getroot()

    def refusal(self, *arguments):
        result, output = self.plot(*arguments)
        self.assertEqual(result.returncode, 1)
        self.assertFalse(os.path.exists(output))
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        return result.stderr

    def test_two_runs_are_compared(self):
        rows = [row(step, 4.5 if step % 50 == 0 else None) for step in range(1, 101)]
        self.write("a & b/train.jsonl", "".join(json.dumps(r) + "\n" for r in rows) + '{"step": 10')
        csv_rows = "".join(f"{step},{3 - step / 100},0.001,{step * 1000},\n" for step in range(1, 51))
        csv = self.write("second/train.csv", HEADER + csv_rows)
        root = self.page(os.path.join(self.folder.name, "a & b"), csv + "=<other>")
        items = ["".join(item.itertext()) for item in root.iter() if item.tag.endswith("}li")]
        self.assertEqual(items, ["a & b", "<other>"])
        panels = list(root.iter(SVG + "svg"))
        titles = [panel.find(SVG + "text").text for panel in panels]
        self.assertEqual([title.split(" (")[0] for title in titles],
                         ["Loss", "Validation loss", "Learning rate", "Tokens a second"])
        curves = [panel.findall(SVG + "polyline") for panel in panels]
        self.assertEqual([len(lines) for lines in curves], [2, 1, 2, 2])
        self.assertEqual(len(curves[0][0].get("points").split()), 100)
        self.assertEqual(len(curves[1][0].get("points").split()), 2)
        self.assertIn("at step 100", curves[0][0].find(SVG + "title").text)
        self.assertEqual(len({line.get("stroke") for line in curves[0]}), 2)
        # The loss falls: down is a larger y; and everything is inside of the picture.
        places = [tuple(map(float, pair.split(","))) for pair in curves[0][0].get("points").split()]
        self.assertLess(places[0][1], places[-1][1])
        for lines in curves:
            for line in lines:
                for pair in line.get("points").split():
                    x, y = map(float, pair.split(","))
                    self.assertTrue(72 <= x <= 624 and 36 <= y <= 276, pair)
        labels = [text.text for text in panels[3].findall(SVG + "text")]
        self.assertIn("step", labels)
        self.assertIn("80,000", labels)
        for label in labels[1:-1]:
            float(label.replace(",", ""))

    def test_long_runs_are_thinned_and_short_ones_are_points(self):
        log = self.write("long/train.jsonl", "".join(json.dumps(row(step)) + "\n" for step in range(1, 5001)))
        line = next(self.page(log).iter(SVG + "polyline"))
        self.assertLessEqual(len(line.get("points").split()), 800)
        log = self.write("short/train.jsonl", json.dumps(row(7, 3.0)) + "\n")
        self.assertEqual(len(list(self.page(log).iter(SVG + "circle"))), 4)

    def test_what_is_not_finite_is_left_out(self):
        log = self.write("odd/train.csv", HEADER + "1,nan,0.1,5,\n2,inf,0.1,5,\n3,2.5,0.1,5,\n")
        self.assertEqual(len(list(self.page(log).iter(SVG + "circle"))), 1)

    def test_what_is_wrong_is_named(self):
        self.assertIn("train.jsonl", self.refusal(self.folder.name))
        self.assertIn("no_such", self.refusal("/no_such/train.csv"))
        self.assertIn("train.jsonl:2: no JSON", self.refusal(self.write("a/train.jsonl", '{"step": 1}\n{"st\n')))
        self.assertIn("train.csv:2: loss is 'x'", self.refusal(self.write("b/train.csv", HEADER + "1,x,1,1,\n")))
        self.assertIn("step is missing", self.refusal(self.write("c/other.csv", "a,b\n1,2\n")))
        self.assertIn("no step is logged", self.refusal(self.write("d/train.csv", HEADER)))
        result = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
        self.assertEqual(result.returncode, 2)


if __name__ == "__main__":
    unittest.main()
