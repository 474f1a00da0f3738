"""What the C headers of include/riverhorse declare, for the tests of bindings: the C compiler knows what is in them."""

import pathlib
import re
import subprocess
import tempfile


class Header:
    """Of the headers `names`, e.g. ["riverhorse.h"]: `structs` (name: members), `enumerations` (name: values by their
    names) and `functions` (name: result and list of arguments), names without "riverhorse_"."""

    def __init__(self, compiler, source, names):
        self._compiler, self._include = compiler, source / "include"
        self._folder = tempfile.TemporaryDirectory()
        self._includes = "".join(f"#include <riverhorse/{name}>\n" for name in names)
        text = " ".join(self._compile(self._includes, "-E", "-P").split())
        self.structs = {name: re.findall(r"(\w+)(?:\[\d+\])?;", members) for name, members in
                        re.findall(r"typedef struct riverhorse_(\w+) \{(.*?)\} riverhorse_\1;", text)}
        self.enumerations = {name: {key: int(value) for key, value in re.findall(r"(\w+) = (-?\d+)", values)}
                             for name, values in re.findall(r"typedef int32_t riverhorse_(\w+); enum \{(.*?)\};", text)}
        self.functions = {name: (result, [] if arguments == "void" else arguments.split(","))
                          for result, name, arguments in
                          re.findall(r'__attribute__\(\(visibility\("default"\)\)\) ([\w ]+?\*?) ?riverhorse_(\w+)'
                                     r"\(([^)]*)\);", text)}

    def close(self):
        self._folder.cleanup()

    def _compile(self, source, *options):
        path = pathlib.Path(self._folder.name) / "source.c"
        path.write_text(source)
        return subprocess.run([self._compiler, "-std=c99", "-I", self._include, *options, path], check=True,
                              capture_output=True, text=True).stdout

    def evaluate(self, expressions):
        """The values of C expressions."""
        lines = "".join(f'  printf("%ld\\n", (long)({each}));\n' for each in expressions)
        program = pathlib.Path(self._folder.name) / "program"
        self._compile(f"#include <stddef.h>\n#include <stdio.h>\n{self._includes}int main(void) {{\n{lines}"
                      "  return 0;\n}\n", "-o", str(program))
        return [int(line) for line in subprocess.run([program], check=True, capture_output=True).stdout.split()]
