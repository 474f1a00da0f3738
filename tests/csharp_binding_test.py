"""samples/csharp: what it says about riverhorse.h, what it does with the library, and its program; with Mono.

Arguments: MCS MONO LIBRARY COMPILER SOURCE_FOLDER VERSION [unittest's own]. Without Mono it exits with 77.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import c_header

MCS, MONO, LIBRARY, COMPILER, SOURCE, VERSION = sys.argv[1:7]
del sys.argv[1:7]
if MCS.endswith("NOTFOUND") or MONO.endswith("NOTFOUND"):
    print("skipped: there is no Mono (Debian: mono-mcs and mono-runtime), samples/csharp is not tested")
    sys.exit(77)
SOURCE = pathlib.Path(SOURCE).resolve()
TESTS = SOURCE / "tests"
SAMPLE = SOURCE / "samples/csharp"
BINDING = [SAMPLE / "Riverhorse.cs", SAMPLE / "Native.cs", SAMPLE / "Conversation.cs"]
DEFAULT_MODEL = SOURCE / "samples/models/default"

# Kinds of C as C# has them.
SCALARS = {"int": "Int32", "size_t": "UIntPtr", "int32_t": "Int32", "int64_t": "Int64", "uint32_t": "UInt32",
           "double": "Double", "riverhorse_status": "Status", "void": "Void"}
POINTERS = {"const char*": {"IntPtr", "Byte[]"}, "char*": {"Byte[]"}, "void*": {"IntPtr", "Byte[]"},
            "const void*": {"Byte[]"}, "size_t*": {"UIntPtr&"}, "int64_t*": {"Int64&"}, "float*": {"Single[]"},
            "const int32_t*": {"Int32[]"}, "int32_t*": {"Int32[]", "Int32&"}, "const char**": {"IntPtr&"}}
HANDLES = {"model": {"ModelHandle", "IntPtr"}, "session": {"SessionHandle", "IntPtr"}, "device_list": {"IntPtr"},
           "conversation": {"ConversationHandle", "IntPtr"}}


def snake(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


class CSharp(unittest.TestCase):
    """The binding repeats riverhorse.h, whose content the C compiler knows; and works."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        (cls.folder / "libriverhorse.so.0").symlink_to(pathlib.Path(LIBRARY).resolve())
        cls.test = cls.compile("test.exe", TESTS / "csharp_binding_test.cs")
        cls.generate = cls.compile("Generate.exe", SAMPLE / "Generate.cs")
        cls.header = c_header.Header(COMPILER, SOURCE, ["riverhorse.h", "conversation.h"])
        cls.addClassCleanup(cls.header.close)
        cls.layout = [line.split() for line in cls.run_mono(cls.test, "layout").stdout.splitlines()]

    @classmethod
    def compile(cls, name, program):
        made = cls.folder / name
        done = subprocess.run([MCS, "-warnaserror", "-warn:4", "-r:System.Core.dll", f"-out:{made}", program, *BINDING],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return made

    @classmethod
    def run_mono(cls, *arguments, folder=None):
        return subprocess.run([MONO, *arguments], capture_output=True, text=True, cwd=cls.folder,
                              env=os.environ | {"LD_LIBRARY_PATH": str(folder or cls.folder), "LC_ALL": "C.UTF-8"})

    def lines(self, kind):
        return [line[1:] for line in self.layout if line[0] == kind]

    def test_structs(self):
        structs, members = dict(self.lines("struct")), self.lines("member")
        self.assertEqual(set(structs), set(self.header.structs))
        expressions, expected, names = [], [], []
        for name, size in structs.items():
            self.assertEqual([member[1] for member in members if member[0] == name], self.header.structs[name])
            expressions.append(f"sizeof(riverhorse_{name})")
            expected.append(int(size))
            names.append(name)
        for name, member, offset, size, kind, _ in members:
            place = f"((riverhorse_{name}*)0)->{member}"
            expressions += [f"offsetof(riverhorse_{name}, {member})", f"sizeof({place})"]
            expected += [int(offset), int(size)]
            names += [f"{name}.{member}, offset", f"{name}.{member}, size"]
            if kind in ("Int32", "Int64", "UInt32", "UInt64", "UIntPtr", "Single", "Double"):
                expressions += [f"(__typeof__({place}))1.5 > 1", f"(__typeof__({place}))-1 < 0"]
                expected += [kind in ("Single", "Double"), not kind.startswith("U")]
                names += [f"{name}.{member}: a floating-point number", f"{name}.{member}: signed"]
        self.assertGreater(len(names), 200)
        self.assertEqual(dict(zip(names, self.header.evaluate(expressions))), dict(zip(names, expected)))
        for name, member, *_, enumeration in members:
            self.assertEqual(enumeration != "-", member in ("dtype", "conv", "tuning", "stop_reason"), f"{name}.{member}")

    def test_enumerations(self):
        given = {}
        for name, value, number in self.lines("value"):
            kind = {"DType": "dtype"}.get(name, snake(name).lower())
            prefix = {"status": "", "stop_reason": "STOP_", "log_level": "LOG_"}.get(kind, kind.upper() + "_")
            given.setdefault(kind, {})[f"RIVERHORSE_{prefix}{snake(value)}"] = int(number)
        self.assertEqual(given, self.header.enumerations)

    def test_functions(self):
        given = {name.removeprefix("riverhorse_"): rest for name, *rest in self.lines("function")}
        self.assertEqual(set(given), set(self.header.functions))
        for name, (convention, result, *arguments) in given.items():
            c_result, c_arguments = self.header.functions[name]
            with self.subTest(name):
                self.assertEqual(convention, "Cdecl")
                self.assertEqual(result, SCALARS.get(c_result, "IntPtr" if "*" in c_result else None))
                self.assertEqual(len(arguments), len(c_arguments))
                for kind, argument in zip(arguments, c_arguments):
                    c_kind = argument.strip().rsplit(" ", 1)[0]
                    bare = re.sub(r"const |[* ]|riverhorse_", "", c_kind)
                    if bare in self.header.structs:
                        self.assertIn(kind, {bare + "&", bare + "[]"}, argument)
                    elif c_kind == "riverhorse_session* const*":
                        self.assertEqual(kind, "IntPtr[]", argument)
                    elif bare in HANDLES:
                        out = "&" if c_kind.endswith("**") else ""
                        self.assertIn(kind, {each + out for each in HANDLES[bare]}, argument)
                    elif c_kind.endswith("_callback"):
                        self.assertEqual(kind, bare, argument)
                    else:
                        self.assertIn(kind, POINTERS.get(c_kind) or {SCALARS[c_kind]}, argument)

    def test_abi(self):
        self.assertEqual([int(self.lines("abi")[0][0])], self.header.evaluate(["RIVERHORSE_ABI_VERSION"]))
        other = self.folder / "other"
        other.mkdir()
        (other / "other.c").write_text("unsigned riverhorse_abi_version(void) { return 1000; }\n")
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", other / "libriverhorse.so.0", other / "other.c"], check=True)
        shutil.copy(self.generate, other)
        done = self.run_mono(other / "Generate.exe", "model", "prompt", folder=other)
        self.assertIn("libriverhorse.so.0 has the ABI 1000, these files are for 0", done.stderr)

    def test_what_it_does(self):
        folder = TESTS / "golden/lm/h3-hybrid"
        golden = json.loads((folder / "generation.json").read_text())
        default = json.loads((DEFAULT_MODEL / "greedy.json").read_text())
        named = self.folder / "Flußpferd ☃"
        named.symlink_to(folder)

        def joined(ids):
            return ",".join(map(str, ids))

        done = self.run_mono(self.test, "run", named, joined(golden["prompt_tokens"][0]),
                             joined(golden["vocab_limited"]["tokens"][0]), DEFAULT_MODEL, default["prompt"],
                             joined(default["greedy_ids"]), self.folder)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, f"version {VERSION}\nall is well\n", ""))

    def test_program(self):
        script = self.folder / "generate"
        script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={self.folder} exec {MONO} {self.generate} "$@"\n')
        script.chmod(0o755)
        done = subprocess.run([TESTS / "sample_text.sh", script, DEFAULT_MODEL], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        options = ["--tokens", "4", "--temperature", "0.5", "--backend", "cpu"]
        texts = [self.run_mono(self.generate, DEFAULT_MODEL, "Once", "--seed", seed, *options) for seed in "112"]
        self.assertEqual([each.returncode for each in texts], [0, 0, 0], texts[0].stderr)
        self.assertEqual(texts[0].stdout, texts[1].stdout)
        self.assertNotEqual(texts[0].stdout, texts[2].stdout)
        for wrong in (["--tokens", "0"], ["--seed", "-1"], ["--what", "1"], ["--tokens"]):
            self.assertEqual(self.run_mono(self.generate, DEFAULT_MODEL, "Once", *wrong).returncode, 2, wrong)

    def test_absent_library_is_named(self):
        lonely = self.folder / "lonely"
        lonely.mkdir()
        shutil.copy(self.generate, lonely)
        done = self.run_mono(lonely / "Generate.exe", "model", "prompt", folder="/nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertIn("libriverhorse.so.0 was not found", done.stderr)


if __name__ == "__main__":
    unittest.main()
