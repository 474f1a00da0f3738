"""samples/python/riverhorse.py: what it says about riverhorse.h, and what it does with the library on one backend.

Arguments: BACKEND LIBRARY COMPILER SOURCE_FOLDER [unittest's own]. What has nothing to do with a device is tested
with the backend cpu only.
"""

import array
import ctypes
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest

import c_header

BACKEND, LIBRARY, COMPILER, SOURCE = sys.argv[1:5]
del sys.argv[1:5]
LIBRARY = os.path.abspath(LIBRARY)
SOURCE = pathlib.Path(SOURCE).resolve()
BINDING = SOURCE / "samples/python/riverhorse.py"
os.environ["RIVERHORSE_LIBRARY"] = LIBRARY
sys.path.insert(0, str(BINDING.parent))
import riverhorse as rh  # noqa: E402
from riverhorse_conversation import Conversation  # noqa: E402

GOLDEN = SOURCE / "tests/golden/lm"
DEFAULT_MODEL = SOURCE / "samples/models/default"

# Of the C headers, what the binding leaves out: work inside a host's own Vulkan device and frames.
NOT_BOUND = {"vulkan_query_requirements", "adopt_vulkan", "adopted_device_free", "session_start", "session_record",
             "session_enqueue", "session_enqueue_text", "batch_create", "batch_free", "batch_add",
             "batch_remove", "batch_record"}
STRUCTS_NOT_BOUND = {"vulkan_features", "vulkan_device", "vulkan_requirements", "record_result", "batch_options"}
ENUMERATIONS = {"status": (rh.Status, ""), "log_level": (rh.LogLevel, "LOG_"), "dtype": (rh.DType, "DTYPE_"),
                "conv": (rh.Conv, "CONV_"), "tuning": (rh.Tuning, "TUNING_"),
                "recompute": (rh.Recompute, "RECOMPUTE_"),
                "stop_reason": (rh.StopReason, "STOP_"), "recipe": (rh.Recipe, "RECIPE_"),
                "schedule": (rh.Schedule, "SCHEDULE_"),
                "logits": ({"32_BITS": rh.Logits.BITS_32, "16_BITS": rh.Logits.BITS_16}, "LOGITS_")}


def binding_structs():
    """C name: class."""
    found = {}
    for name, value in vars(rh).items():
        if isinstance(value, type) and issubclass(value, rh._Struct) and value is not rh._Struct:
            found[re.sub(r"(?<!^)([A-Z])", r"_\1", name[1:]).lower()] = value
    return found


on_cpu_only = unittest.skipUnless(BACKEND == "cpu", "the same on every backend")


@on_cpu_only
class Header(unittest.TestCase):
    """The binding repeats riverhorse.h; the C compiler knows what is in it."""

    @classmethod
    def setUpClass(cls):
        names = [path.name for path in sorted((SOURCE / "include/riverhorse").glob("*.h"))]
        cls.header = c_header.Header(COMPILER, SOURCE, names)
        cls.addClassCleanup(cls.header.close)

    def test_structs_have_the_members_sizes_and_offsets_of_the_header(self):
        structs = binding_structs()
        declared = self.header.structs
        self.assertEqual(set(structs), set(declared) - STRUCTS_NOT_BOUND)
        expressions, expected, names = [], [], []
        for name, struct in structs.items():
            members = declared[name]
            self.assertEqual(members, [field[0] for field in struct._fields_], name)
            c_name = "riverhorse_" + name
            expressions.append(f"sizeof({c_name})")
            expected.append(ctypes.sizeof(struct))
            names.append(name)
            for member in members:
                expressions += [f"offsetof({c_name}, {member})", f"sizeof((({c_name}*)0)->{member})"]
                field = getattr(struct, member)
                expected += [field.offset, field.size]
                names += [f"{name}.{member}, offset", f"{name}.{member}, size"]
        values = self.header.evaluate(expressions)
        self.assertEqual(dict(zip(names, values)), dict(zip(names, expected)))

    def test_members_have_the_kinds_of_the_header(self):
        # Of one size, but an integer or a floating-point number, signed or not.
        expressions, expected, names = [], [], []
        for name, struct in binding_structs().items():
            for member, kind in struct._fields_:
                element = getattr(kind, "_type_", None)
                if not isinstance(element, str) or element not in "iIlLqQfd":
                    continue
                place = f"((riverhorse_{name}*)0)->{member}"
                expressions += [f"(__typeof__({place}))1.5 > 1", f"(__typeof__({place}))-1 < 0"]
                expected += [element in "fd", element not in "ILQ"]
                names += [f"{name}.{member}: a floating-point number", f"{name}.{member}: signed"]
        self.assertGreater(len(names), 100)
        self.assertEqual(dict(zip(names, map(bool, self.header.evaluate(expressions)))), dict(zip(names, expected)))

    def test_enumerations_have_the_values_of_the_header(self):
        declared = self.header.enumerations
        self.assertEqual(set(declared), set(ENUMERATIONS))
        for name, (enumeration, prefix) in ENUMERATIONS.items():
            members = enumeration if isinstance(enumeration, dict) else enumeration.__members__
            self.assertEqual(declared[name], {f"RIVERHORSE_{prefix}{key}": int(value) for key, value in members.items()})

    def test_functions_have_the_arguments_of_the_header(self):
        scalars = {"int": ctypes.c_int, "size_t": ctypes.c_size_t, "int32_t": ctypes.c_int32,
                   "int64_t": ctypes.c_int64, "uint32_t": ctypes.c_uint32, "double": ctypes.c_double,
                   "riverhorse_status": ctypes.c_int32, "void": None}
        declared = self.header.functions
        self.assertEqual(set(declared), set(rh._functions) | NOT_BOUND)
        for name, (result, arguments) in rh._functions.items():
            c_result, wanted = declared[name]
            with self.subTest(name):
                self.assertEqual(len(arguments), len(wanted))
                for kind, text in zip(arguments, wanted):
                    if "*" in text or "_callback" in text:
                        self.assertNotIn(kind, scalars.values(), text)
                    else:
                        self.assertIs(kind, scalars[text.split()[-2]], text)
                if c_result == "riverhorse_status":
                    self.assertIs(result, rh.Status)
                elif "*" not in c_result:
                    self.assertIs(result, scalars[c_result])

    def test_the_library_exports_these_functions_and_nothing_else(self):
        symbols = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], check=True, capture_output=True, text=True)
        names = {line.split()[-1].split("@")[0] for line in symbols.stdout.splitlines()}
        self.assertEqual(names, {"riverhorse_" + name for name in self.header.functions})

    def test_the_abi_is_that_of_the_header(self):
        self.assertEqual(self.header.evaluate(["RIVERHORSE_ABI_VERSION"]), [rh.ABI_VERSION])


@on_cpu_only
class Library(unittest.TestCase):
    def run_python(self, code, folder=BINDING.parent, **environment):
        variables = {key: value for key, value in os.environ.items() if key != "RIVERHORSE_LIBRARY"}
        return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=variables | environment, cwd=folder,
                              capture_output=True, text=True)

    def test_is_found_beside_the_file_and_where_both_are_installed(self):
        for module, library in (("riverhorse.py", "libriverhorse.so.0"),
                                ("share/riverhorse/python/riverhorse.py", "lib/libriverhorse.so.0"),
                                ("share/riverhorse/python/riverhorse.py", "lib/some-machine/libriverhorse.so.0")):
            with self.subTest(library), tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name)
                for path in (folder / module, folder / library):
                    path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(BINDING, folder / module)
                (folder / library).symlink_to(pathlib.Path(LIBRARY).resolve())
                done = self.run_python("import riverhorse; print(riverhorse.version())", (folder / module).parent)
                self.assertEqual(done.stdout.strip(), rh.version(), done.stderr)

    def test_that_is_absent_is_named(self):
        done = self.run_python("import riverhorse; riverhorse.version()", RIVERHORSE_LIBRARY="/nowhere/lib.so")
        self.assertIn("/nowhere/lib.so", done.stderr)
        self.assertIn("RIVERHORSE_LIBRARY", done.stderr)
        done = self.run_python("import riverhorse; riverhorse.load_library('/nowhere/other.so')")
        self.assertIn("OSError: the library of Riverhorse cannot be loaded (/nowhere/other.so", done.stderr)

    def test_of_others_is_refused(self):
        done = self.run_python("import riverhorse; riverhorse.load_library('libm.so.6')")
        self.assertIn("libm.so.6 has no riverhorse_", done.stderr)

    def test_what_is_still_open_ends_with_the_program(self):
        done = self.run_python(f"""
            import riverhorse
            riverhorse.load_library({LIBRARY!r})
            riverhorse.set_log(lambda level, message: None)
            model = riverhorse.Model({str(GOLDEN / "h3-pure/model.pt")!r}, backend="cpu", cache_folder="none")
            session = model.session()
            session.append([1, 2, 3])
            print("end")
        """)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "end\n", ""))

    def test_nothing_is_written_to_standard_output(self):
        done = self.run_python(f"""
            import riverhorse
            riverhorse.load_library({LIBRARY!r})
            riverhorse.list_devices()
            with riverhorse.Model({str(DEFAULT_MODEL)!r}, backend="cpu", cache_folder="none") as model:
                session = model.session()
                session.append("It was late")
                session.generate(4)
            with riverhorse.Device(backend="cpu", cache_folder="none") as device:
                riverhorse.Trainer(device, preset="tiny", batch=1, length=8).step([1] * 8)
            for wrong in ("/does/not/exist", {str(SOURCE / "LICENSE")!r}):
                try:
                    riverhorse.Model(wrong, backend="cpu")
                except riverhorse.RiverhorseError:
                    continue
                raise SystemExit("it should fail")
        """)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_devices(self):
        devices = rh.list_devices()
        self.assertEqual(sum(each.is_default for each in devices.present), 1)
        cpu, = (each for each in devices.present if each.id == "cpu:0")
        self.assertEqual(cpu.backend, "cpu")
        self.assertGreater(cpu.memory_total_bytes, cpu.memory_free_bytes)
        for each in devices.absent:
            self.assertNotEqual(each.reason, "")
        self.assertEqual({each.backend for each in devices.present} | {each.backend for each in devices.absent},
                         {"cpu", "vulkan", "cuda"})

    def test_log(self):
        messages = []
        rh.set_log(lambda level, message: messages.append((level, message)))
        self.addCleanup(rh.set_log, None)
        with rh.Device(backend="cpu", cache_folder="none") as device:
            rh.Trainer(device, preset="tiny", batch=1, length=8).close()
        self.assertTrue(any("MiB" in message for level, message in messages), messages)
        self.assertEqual({type(level) for level, _ in messages}, {rh.LogLevel})


class Models(unittest.TestCase):
    def load(self, name="h3-hybrid", **options):
        if BACKEND != "cpu":
            return self.shared  # loading takes a software device seconds
        model = rh.Model(GOLDEN / name / "model.pt", backend=BACKEND, cache_folder="none", **options)
        self.addCleanup(model.close)
        return model

    @classmethod
    def setUpClass(cls):
        golden = json.loads((GOLDEN / "h3-hybrid/generation.json").read_text())
        cls.prompt = golden["prompt_tokens"][0]
        cls.expected = golden["vocab_limited"]["tokens"][0]
        if BACKEND != "cpu":
            cls.shared = rh.Model(GOLDEN / "h3-hybrid/model.pt", backend=BACKEND, cache_folder="none", max_sessions=8)
            cls.addClassCleanup(cls.shared.close)

    def session(self, **options):
        session = self.load(**options).session()
        session.append(self.prompt)
        return session

    def test_greedy_tokens_are_those_of_the_original_implementation(self):
        session = self.session()
        self.assertEqual([session.step() for _ in self.expected], self.expected)
        self.assertEqual(session.tokens, self.prompt + self.expected)
        self.assertEqual(session.position, len(self.prompt + self.expected))

    @on_cpu_only
    def test_default_model_says_what_was_written_down(self):
        golden = json.loads((DEFAULT_MODEL / "greedy.json").read_text())
        with rh.Model(DEFAULT_MODEL, backend=BACKEND, cache_folder="none") as model, model.session() as session:
            self.assertTrue(model.info.has_tokenizer)
            self.assertEqual(model.info.device_id, BACKEND + ":0")
            session.append(golden["prompt"])
            pieces, tokens = [], []
            result = session.generate(len(golden["greedy_ids"]), ignore_end_of_text=True, on_text=pieces.append,
                                      on_token=lambda token, text: tokens.append(token))
            self.assertEqual(result.tokens, golden["greedy_ids"])
            self.assertEqual([token for token in tokens if token >= 0], golden["greedy_ids"])
            self.assertEqual("".join(pieces), result.text)
            self.assertEqual(result.text, model.decode(golden["greedy_ids"]))
            self.assertEqual(result.stop_reason, rh.StopReason.MAX_TOKENS)
            self.assertGreater(result.seconds, 0)
            self.assertEqual(session.text, golden["prompt"] + result.text)
            self.assertEqual(model.encode(golden["prompt"]), session.tokens[:-len(result.tokens)])

    @on_cpu_only
    def test_model_from_memory(self):
        folder = GOLDEN / "h3-hybrid"
        files = {name: (folder / name).read_bytes() for name in ("config.json", "model.pt")}
        with rh.Model(files, backend="cpu", cache_folder="none") as model, model.session() as session:
            del files
            session.append(self.prompt)
            self.assertEqual([session.step() for _ in self.expected], self.expected)
        with self.assertRaisesRegex(rh.NotFoundError, "config.json"):
            rh.Model({"model.pt": b""}, backend="cpu", cache_folder="none")

    @on_cpu_only
    def test_memory_is_estimated(self):
        path = GOLDEN / "h3-hybrid/model.pt"
        given = {"backend": "cpu", "cache_folder": "none", "max_sessions": 2}
        estimate = rh.estimate_memory(path, **given)
        self.assertEqual(estimate.total_bytes,
                         estimate.weights_bytes + estimate.sessions_bytes + estimate.workspace_bytes)
        self.assertGreater(estimate.available_bytes, estimate.total_bytes)
        rh.Model(path, memory_budget_bytes=estimate.total_bytes, **given).close()
        with self.assertRaises(rh.OutOfMemoryError):
            rh.Model(path, memory_budget_bytes=estimate.total_bytes - 1, **given)

    @on_cpu_only
    def test_tuning_is_by_name_or_number(self):
        for tuning in ("off", rh.Tuning.ON, 0):
            self.load(tuning=tuning).close()
        with self.assertRaises(ValueError):
            self.load(tuning="twice")

    @on_cpu_only
    def test_low_priority_where_there_is_none(self):
        messages = []
        rh.set_log(lambda level, message: messages.append(message))
        self.addCleanup(rh.set_log, None)
        self.assertIs(self.load(low_priority=True).info.low_priority, False)
        self.assertIn("has no queue of low priority", "".join(messages))

    @on_cpu_only
    def test_stream_yields_what_generate_gives(self):
        session = self.load("h3-pure").session()
        session.append("Hippo")
        start = session.save_bytes()
        expected = session.generate(24, ignore_end_of_text=True)
        session.load_bytes(start)
        self.assertEqual("".join(session.stream(max_tokens=24, ignore_end_of_text=True)), expected.text)
        self.assertEqual(session.tokens[-24:], expected.tokens)
        session.clear()
        self.assertEqual("".join(session.stream("Hippo", 24, ignore_end_of_text=True)), expected.text)
        # One that is left early is over, and the session good.
        stream = session.stream(max_tokens=100000, ignore_end_of_text=True)
        next(stream)
        stream.close()
        session.append([1])
        self.assertEqual(session.position, len(session.tokens))

    @on_cpu_only
    def test_cancel_from_a_callback(self):
        session = self.session()
        result = session.generate(20, ignore_end_of_text=True, on_token=lambda *_: session.cancel())
        self.assertEqual(result.stop_reason, rh.StopReason.CANCELLED)
        self.assertLess(len(result.tokens), 20)
        self.assertEqual(session.tokens, self.prompt + result.tokens)

    @on_cpu_only
    def test_logits_are_of_the_next_token(self):
        session = self.session()
        logits = session.logits()
        self.assertEqual(len(logits), session.model.info.padded_vocab_size)
        self.assertEqual(max(range(session.model.info.vocab_size), key=logits.__getitem__), self.expected[0])

    def test_checkpoint_rewind_and_clone_change_nothing_that_follows(self):
        session = self.session()
        session.checkpoint()
        first = session.generate(8, ignore_end_of_text=True).tokens
        self.assertEqual(first, self.expected[:8])
        copy = session.clone()
        self.assertEqual(session.rewind(len(self.prompt)), 0)
        self.assertEqual(session.generate(8, ignore_end_of_text=True).tokens, first)
        self.assertEqual(copy.step(), self.expected[8])
        self.assertEqual(session.step(), self.expected[8])
        session.clear()
        self.assertEqual((session.position, session.tokens), (0, []))

    def test_saved_to_a_file_and_to_memory(self):
        session = self.session()
        data = session.save_bytes()
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "state"
            session.save(path)
            self.assertEqual(path.read_bytes(), data)
            for load in (lambda: session.load(path), lambda: session.load_bytes(data)):
                session.clear()
                self.assertEqual(load(), len(self.prompt))
                self.assertEqual(session.step(), self.expected[0])
        with self.assertRaises(rh.BadFileError):
            session.load_bytes(data[:-1])

    @on_cpu_only
    def test_sampling_repeats_with_its_seed(self):
        session = self.session()
        start = session.save_bytes()
        texts = []
        for seed in (1, 1, 2):
            session.load_bytes(start)
            session.set_sampling(rh.Sampling(temperature=1.5, top_k=100, top_p=0.99, seed=seed))
            texts.append(session.generate(16, ignore_end_of_text=True).tokens)
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        session.set_sampling(rh.Sampling(logit_bias={7: 1000.0}))
        self.assertEqual(session.step(), 7)
        greedy = session.model.session(rh.Sampling(vocabulary_limit=100))
        greedy.append(self.prompt)
        self.assertLess(max(greedy.generate(8, ignore_end_of_text=True).tokens), 100)

    @on_cpu_only
    def test_sessions_step_together(self):
        model = self.load()
        sessions = [model.session() for _ in range(2)]
        sessions[0].append(self.prompt)
        sessions[1].append([5])
        alone = sessions[1].clone()
        self.assertEqual(rh.step_sessions(sessions), [self.expected[0], alone.step()])

    @on_cpu_only
    def test_callbacks_stop_and_cancel(self):
        model = self.load("h3-pure")
        session = model.session()
        session.append("Hippo")
        seen = []
        result = session.generate(20, ignore_end_of_text=True,
                                  on_token=lambda token, _: seen.append(token) or len(seen) < 4)
        self.assertEqual(result.stop_reason, rh.StopReason.CALLBACK)
        self.assertEqual(result.tokens, seen[:4])
        pieces = self.load(prefill_piece_tokens=4).session()
        with self.assertRaises(rh.CancelledError):
            pieces.append([1] * 12, progress=lambda done, total: done < 8)
        self.assertIn(pieces.position, range(8, 12))
        with self.assertRaises(rh.CancelledError):
            self.load("h3-pure", progress=lambda done, total: False)

    @on_cpu_only
    def test_what_a_callback_raises_comes_out(self):
        session = self.session()
        for kind in (LookupError, KeyboardInterrupt):
            def throw(token, text):
                raise kind("from within")
            with self.assertRaisesRegex(kind, "from within"):
                session.generate(4, ignore_end_of_text=True, on_token=throw)
        self.assertEqual(session.position, len(self.prompt) + 2)

    @on_cpu_only
    def test_stop_strings(self):
        golden = json.loads((DEFAULT_MODEL / "greedy.json").read_text())
        with rh.Model(DEFAULT_MODEL, backend=BACKEND, cache_folder="none") as model, model.session() as session:
            session.append(golden["prompt"])
            result = session.generate(stop=["nowhere", " over,"])
            self.assertEqual((result.text, result.stop_reason), (" the evening was", rh.StopReason.STRING))

    @on_cpu_only
    def test_conversations(self):
        form = {"system": {"prefix": "", "suffix": "\n"}, "user": {"prefix": "Guest:", "suffix": "\n"},
                "assistant": {"prefix": "Host:", "suffix": "\n"}, "stop": ["\nGuest:"], "end_of_text": False}
        model = self.load("h3-pure")
        talk = Conversation(model, form, "A river.", sampling=rh.Sampling(vocabulary_limit=256))
        self.addCleanup(talk.close)
        pieces = []
        first = talk.say("Is it deep?", 8, on_text=pieces.append)
        self.assertEqual("".join(pieces), first.text)
        # The same as a text that is read in one go.
        plain = model.session(rh.Sampling(vocabulary_limit=256))
        plain.append("A river.\nGuest:Is it deep?\nHost:")
        self.assertEqual(plain.generate(8, ignore_end_of_text=True).tokens, first.tokens)
        self.assertEqual(talk.session.tokens, plain.tokens)
        self.assertEqual(talk.user_text(0), "Is it deep?")
        self.assertEqual(talk.reply_text(0), first.text)
        self.assertEqual(talk.info, (False, 1, 1, len("A river.\nGuest:Is it deep?\nHost:")))
        saved = talk.save_bytes()

        talk.begin_turn("How far?")
        self.assertTrue(talk.info.turn_is_open)
        self.assertEqual(model.decode(talk.prompt), "\nGuest:How far?\nHost:")
        self.assertEqual(talk.generate_options, {"stop": ["\nGuest:"], "ignore_end_of_text": True})
        session = talk.session
        session.close()  # it is the conversation's
        streamed = "".join(session.stream(talk.prompt, 8, **talk.generate_options))
        talk.end_turn()
        self.assertEqual(talk.reply_text(1), streamed)
        talk.regenerate()
        self.assertEqual(talk.reply(8).text, streamed)
        talk.regenerate(rh.Sampling(temperature=2.0, seed=4, vocabulary_limit=256))
        self.assertNotEqual(talk.reply(8).text, streamed)
        talk.undo(2)
        self.assertEqual(talk.info.turn_count, 0)
        with self.assertRaisesRegex(rh.InvalidArgumentError, "turn"):
            talk.reply_text(0)
        talk.load_bytes(saved)
        self.assertEqual(talk.reply_text(0), first.text)
        self.assertEqual(talk.say("How far?", 8).text, streamed)
        with self.assertRaises(rh.BadFileError):
            talk.load_bytes(saved[:-1])
        with self.assertRaisesRegex(rh.BadFileError, "the template in memory"):
            Conversation(model, {"system": {}})
        with self.assertRaises(rh.NotFoundError):
            Conversation(model, "/does/not/exist.json")

    @on_cpu_only
    def test_errors_are_exceptions_with_the_text_of_the_library(self):
        with self.assertRaisesRegex(FileNotFoundError, "/does/not/exist") as caught:
            rh.Model("/does/not/exist", backend=BACKEND)
        self.assertEqual(caught.exception.status, rh.Status.NOT_FOUND)
        model = self.load(max_sessions=1)
        session = model.session()
        with self.assertRaisesRegex(MemoryError, "max_sessions"):
            model.session()
        with self.assertRaisesRegex(rh.InvalidArgumentError, "512"):
            session.append([512])
        with self.assertRaisesRegex(rh.InvalidArgumentError, "32 bits"):
            session.append([2**32 + 5])
        with self.assertRaisesRegex(ValueError, "'f17' is none of default, f32"):
            self.load(dtype="f17")
        with self.assertRaisesRegex(ValueError, "max_sessions = 4294967297 does not fit"):
            self.load(max_sessions=2**32 + 1)
        with self.assertRaisesRegex(rh.InvalidArgumentError, "-1"):
            model.decode([-1])

    @on_cpu_only
    def test_what_is_closed_is_not_used(self):
        model = self.load()
        session = model.session()
        session.append(array.array("i", self.prompt))
        model.close()
        self.assertEqual(session.step(), self.expected[0])  # it keeps what it needs
        session.close()
        session.close()
        for use in (session.step, lambda: model.info):
            with self.assertRaisesRegex(ValueError, "is closed"):
                use()


@on_cpu_only
class Training(unittest.TestCase):
    IDS = [1, 5, 2, 6, 3, 7, 4, 1, 2, 2, 5, 5, 1, 1, 3, 3]

    def setUp(self):
        self.device = rh.Device(backend="cpu", cache_folder="none")
        self.addCleanup(self.device.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def trainer(self, **options):
        config = {"n_embd": 16, "n_layer": 2, "attn_layer_idx": [1], "attn_n_head": 2, "vocab_size": 12,
                  "pad_vocab_size_multiple": 8, "ssm_d_state": 8}
        given = {"config_json": json.dumps(config), "batch": 2, "length": 8, "learning_rate": 0.01}
        return rh.Trainer(self.device, **given | options)

    def test_learns_saves_and_resumes_exactly(self):
        with self.trainer(schedule="cosine", schedule_steps=20, recipe=rh.Recipe.SAFARI) as trainer:
            info = trainer.info
            self.assertEqual((info.batch, info.length, info.vocab_size, info.padded_vocab_size, info.dtype),
                             (2, 8, 12, 16, rh.DType.F32))
            first = trainer.step(self.IDS)
            self.assertEqual((first.step, first.scored, first.skipped), (1, 14, False))
            losses = [trainer.step(self.IDS).loss for _ in range(9)]
            self.assertLess(losses[-1], 0.8 * first.loss)
            trainer.save(self.folder)
            next_loss = trainer.step(self.IDS).loss
        with rh.Trainer.resume(self.device, self.folder) as trainer:
            self.assertEqual((trainer.info.step, trainer.info.sequences), (10, 20))
            self.assertEqual(trainer.step(self.IDS).loss, next_loss)
        with rh.Model(self.folder / "step-00000010", backend="cpu") as model:
            self.assertEqual(model.info.vocab_size, 12)

    def test_evaluates_what_has_a_target(self):
        with self.trainer() as trainer:
            result = trainer.evaluate(self.IDS, [5] + [-1] * 15)
            self.assertEqual(result.scored, 1)
            self.assertEqual(trainer.evaluate(self.IDS, [5] + [-1] * 15), result)
            self.assertEqual(trainer.info.step, 0)

    def test_errors(self):
        with self.assertRaisesRegex(TypeError, "no training option 'rate'; there are: batch,"):
            self.trainer(rate=1)
        with self.assertRaisesRegex(ValueError, "'square' is none of constant"):
            self.trainer(schedule="square")
        with self.assertRaises(rh.InvalidArgumentError):
            rh.Trainer(self.device, preset="tiny", config_json="{}")
        with self.assertRaises(rh.NotFoundError):
            rh.Trainer.resume(self.device, self.folder)
        with self.trainer() as trainer:
            with self.assertRaisesRegex(rh.InvalidArgumentError, "15 ids and no targets are not sequences of 8"):
                trainer.step(self.IDS[1:])
            with self.assertRaisesRegex(rh.InvalidArgumentError, "16 ids and 8 targets"):
                trainer.evaluate(self.IDS, self.IDS[:8])


if __name__ == "__main__":
    unittest.main()
