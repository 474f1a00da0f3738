#!/usr/bin/env python3
"""What AMD's shader compiler makes of the shaders, a generation a column, as a table in Markdown.

    tests/radv_table.py build/release/bin/radv_pipelines --driver build/release/tests/radv_icd.json

Runs `radv_pipelines compile` for every generation, which needs no GPU, with waves as wide as the driver chooses (64) and,
where the hardware has both widths, of 32 (RADV_PERFTEST=cswave32). A cell is the most that any variant of the shader takes:
vector registers a lane / bytes of LDS a workgroup. Spilling registers is an error: the variants that do are listed, and the
exit status is 1.
"""

import argparse
import os
import subprocess
import sys

# By RADV_FORCE_FAMILY: (generation, whether waves of 32 exist).
FAMILIES = {
    "polaris10": ("GCN 4", False),
    "vega10": ("GCN 5", False),
    "navi10": ("RDNA 1", True),
    "navi21": ("RDNA 2", True),
    "navi31": ("RDNA 3", True),
    "gfx1200": ("RDNA 4", True),
}
TRAILING = ["VGPRs", "SGPRs", "LDS", "scratch", "spills", "waves"]


def read_pipelines(text):
    """The lines of the program's table: (shader, constants, {column: number})."""
    pipelines, columns = [], None
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["shader"] and words[-len(TRAILING):] == TRAILING:
            columns = TRAILING
        elif columns:
            try:
                numbers = [float(word) for word in words[-len(columns):]]
            except ValueError:
                break  # the table has ended
            if len(words) <= len(columns):
                break
            pipelines.append((words[0], " ".join(words[1:-len(columns)]), dict(zip(columns, numbers))))
    return pipelines


def compile_for(program, driver, family, wave):
    environment = os.environ | {"RADV_FORCE_FAMILY": family}
    if driver:
        environment |= {"VK_DRIVER_FILES": driver, "VK_ICD_FILENAMES": driver}
    if wave:
        environment["RADV_PERFTEST"] = f"cswave{wave}"
    result = subprocess.run([program, "compile"], env=environment, capture_output=True, text=True)
    pipelines = read_pipelines(result.stdout)
    if pipelines and result.returncode in (0, 1):
        return pipelines, result.returncode
    last = (result.stdout + result.stderr).strip().splitlines()[-1:] or ["it printed nothing"]
    raise OSError(f"{family}: {program} ended with status {result.returncode}: {last[0]}")


def main():
    parser = argparse.ArgumentParser(description="A table of what AMD's shader compiler makes of the shaders.")
    parser.add_argument("program", help="radv_pipelines, as built")
    parser.add_argument("--driver", help="RADV's JSON file for the Vulkan loader (default: the system's drivers)")
    parser.add_argument("--families", default=",".join(FAMILIES), help=f"of {', '.join(FAMILIES)} (default: all)")
    options = parser.parse_args()
    families = options.families.split(",")
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        parser.error(f"--families: there is no {unknown[0]}, but {', '.join(FAMILIES)}")

    titles, most, failed = [], {}, False
    for family in families:
        generation, narrow = FAMILIES[family]
        for wave in [None, 32] if narrow else [None]:
            title = f"{generation}, {family}" + (f", waves of {wave}" if wave else "")
            try:
                pipelines, status = compile_for(options.program, options.driver, family, wave)
            except OSError as error:
                print(f"radv_table: {error}", file=sys.stderr)
                return 1
            failed = failed or status != 0
            titles.append(title)
            for shader, constants, numbers in pipelines:
                if numbers["spills"] > 0:
                    print(f"radv_table: {title}: {shader} ({constants}) spills {numbers['spills']:.0f} registers",
                          file=sys.stderr)
                    failed = True
                cell = most.setdefault(shader.split(".")[0], {}).setdefault(title, [0, 0])
                cell[:] = max(cell[0], numbers["VGPRs"]), max(cell[1], numbers["LDS"])
    print(f"| VGPRs / LDS | {' | '.join(titles)} |")
    print("|---" * (len(titles) + 1) + "|")
    for shader in sorted(most):
        cells = [f"{cell[0]:.0f} / {cell[1]:,.0f}" if cell else "" for cell in map(most[shader].get, titles)]
        print(f"| {shader} | {' | '.join(cells)} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
