"""Riverhorse from Python: language models and their training, by ctypes over the C API. One file, nothing to build;
riverhorse_conversation.py beside it adds conversations.

    import riverhorse
    with riverhorse.Model("samples/models/default") as model, model.session() as session:
        session.append("It was late in the evening when")
        session.generate(max_tokens=48, on_text=lambda text: print(text, end="", flush=True))

The shared library (libriverhorse.so.0) is the file that the environment variable RIVERHORSE_LIBRARY names, or lies
next to this file, or in the lib folder of the prefix that this file was installed to, or is where the dynamic loader
finds it; load_library(path) names it in the program.

What can fail raises a RiverhorseError with the library's message. Models, sessions, devices and trainers are freed by
close(), by the end of `with`, by garbage collection, and at the end of the program at the latest. An exception in a
callback stops the call that it was given to, and leaves that call. Threads: as riverhorse.h says; calls let other
Python threads run. Token ids are ints; whatever takes ids takes any iterable of them, and a session also a text.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import enum
import os
import pathlib
import time
import uuid
import weakref
from ctypes import POINTER, c_char, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint8, c_uint32
from ctypes import c_uint64, c_void_p
from collections.abc import Mapping
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Optional, Sequence, Union, get_type_hints

ABI_VERSION = 0  # of the riverhorse.h that the structures below are those of

Path = Union[str, "os.PathLike[str]"]
Ids = Iterable[int]
TextFunction = Callable[[str], Optional[bool]]  # is given text that was drawn; False stops
TokenFunction = Callable[[int, str], Optional[bool]]  # a token (-1 in a last call) and the text that it completes
ProgressFunction = Callable[[int, int], Optional[bool]]  # done and total, in a unit of the call's; False cancels


# ------------------------------------------------------------------------------------------------------------- errors


class Status(enum.IntEnum):
    OK = 0
    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    BAD_FILE = 3
    UNSUPPORTED = 4
    OUT_OF_MEMORY = 5
    DEVICE_LOST = 6
    IO_ERROR = 7
    CANCELLED = 8
    INTERNAL = 9


class RiverhorseError(Exception):
    """A call failed: the library's message, and its status. Of the subclasses, one a status, some are also
    Python's own: a ValueError, a FileNotFoundError, a MemoryError, an OSError."""

    status = Status.INTERNAL


class InvalidArgumentError(RiverhorseError, ValueError):
    status = Status.INVALID_ARGUMENT

class NotFoundError(RiverhorseError, FileNotFoundError):
    status = Status.NOT_FOUND

class BadFileError(RiverhorseError, ValueError):
    status = Status.BAD_FILE

class UnsupportedError(RiverhorseError):
    status = Status.UNSUPPORTED

class OutOfMemoryError(RiverhorseError, MemoryError):
    status = Status.OUT_OF_MEMORY

class DeviceLostError(RiverhorseError):
    status = Status.DEVICE_LOST

class FileAccessError(RiverhorseError, OSError):
    status = Status.IO_ERROR

class CancelledError(RiverhorseError):
    status = Status.CANCELLED


_errors = {kind.status: kind for kind in (InvalidArgumentError, NotFoundError, BadFileError, UnsupportedError,
                                          OutOfMemoryError, DeviceLostError, FileAccessError, CancelledError)}


# ------------------------------------------------------------------------------------- enumerations and C structures


class _Named(enum.IntEnum):
    """An enumeration whose members may also be given by their names in lower case: "f16" for DType.F16."""

    @classmethod
    def of(cls, value: Union[int, str]) -> "_Named":
        if isinstance(value, str):
            names = {member.name.lower(): member for member in cls}
            if value not in names:
                raise ValueError(f"{value!r} is none of {', '.join(names)}")
            return names[value]
        return cls(value)


LogLevel = _Named("LogLevel", "DEBUG INFO WARNING ERROR", start=0)
DType = _Named("DType", "DEFAULT F32 F16 BF16", start=0)
Conv = _Named("Conv", "AUTO CHUNKED FFT", start=0)
Tuning = _Named("Tuning", "AUTO ON OFF", start=0)
Recompute = _Named("Recompute", "NONE MIXER BLOCK", start=0)
Logits = _Named("Logits", "BITS_32 BITS_16", start=0)
StopReason = _Named("StopReason", "MAX_TOKENS END_OF_TEXT STRING CALLBACK CANCELLED", start=0)
Recipe = _Named("Recipe", "GROUPED SAFARI", start=0)
Schedule = _Named("Schedule", "CONSTANT LINEAR COSINE WSD", start=0)

_PROGRESS = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64)
_TOKEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_int32, POINTER(c_char), c_size_t)
_LOG = ctypes.CFUNCTYPE(None, c_void_p, c_int32, c_char_p)
_types = {"u8": c_uint8, "u32": c_uint32, "i32": c_int32, "u64": c_uint64, "i64": c_int64, "f32": c_float,
          "f64": c_double, "size": c_size_t, "char": c_char, "text": c_char_p, "pointer": c_void_p,
          "progress": _PROGRESS}


class _Struct(ctypes.Structure):
    """A struct of riverhorse.h. What is not given, or None, is zero: the default; struct_size is set."""

    def __init__(self, **members: Any) -> None:
        super().__init__()
        types = dict(self._fields_)
        if "struct_size" in types:
            self.struct_size = ctypes.sizeof(self)
        for name, value in members.items():
            if value is None:
                continue
            if types[name] is c_char_p:
                value = os.fsencode(value)
            setattr(self, name, value)
            if isinstance(value, int) and getattr(self, name) != value and types[name] not in (c_float, c_double):
                raise InvalidArgumentError(f"{name} = {value} does not fit {types[name].__name__[2:]}")


def _struct(members: str, **more: Any) -> Any:
    """A class for a struct of these members, listed by type in the header's order; name:count is an array."""
    fields = []
    for group in members.split(";"):
        kind, *names = group.split()
        for name in names:
            name, _, count = name.partition(":")
            element = more.get(kind) or _types[kind]
            fields.append((name, element * int(count) if count else element))
    return type("_Struct", (_Struct,), {"_fields_": fields})


_DeviceInfo = _struct(
    "u32 struct_size; i32 is_default; char id:32 backend:16 name:256 type:32 driver:256 api:64; u8 uuid:16; u64 "
    "memory_total_bytes memory_free_bytes")
_ModelOptions = _struct(
    "u32 struct_size; i32 dtype conv safe_shaders skip_self_test validation check_finite max_sessions; i64 "
    "context_tokens prefill_piece_tokens; f64 submission_limit_ms; text config_path backend device cache_folder; "
    "progress progress; pointer progress_user adopted_device; u64 memory_budget_bytes; i32 low_priority frame_sessions "
    "tuning")
_MemoryEstimate = _struct(
    "u32 struct_size; u64 weights_bytes sessions_bytes workspace_bytes frames_bytes total_bytes available_bytes")
_ModelFile = _struct("text name; pointer data; size size")
_ModelInfo = _struct(
    "u32 struct_size; i32 dtype; i64 parameter_count embedding_width layer_count attention_layer_count state_size "
    "vocab_size padded_vocab_size; i32 has_tokenizer end_of_text; i64 tokenizer_vocab_size max_sessions; u64 "
    "device_memory_bytes; char device_id:32 device_name:256; i32 low_priority")
_LogitBias = _struct("i32 token; f32 bias")
_SamplingOptions = _struct(
    "u32 struct_size; i32 padded_vocabulary; f64 temperature; i64 top_k; f64 top_p min_p repetition_penalty "
    "presence_penalty frequency_penalty; u64 seed; i64 vocabulary_limit; biases logit_bias; size logit_bias_count",
    biases=POINTER(_LogitBias))
_GenerateOptions = _struct(
    "u32 struct_size; i32 ignore_end_of_text; i64 max_tokens; texts stop_strings; size stop_string_count",
    texts=POINTER(c_char_p))
_GenerateResult = _struct("u32 struct_size; i32 stop_reason; i64 token_count; f64 seconds")
_PollResult = _struct(
    "u32 struct_size; i32 running stop_reason frames_in_flight; i64 token_count; f64 expected_us measured_us; i64 "
    "tokens_to_read")
_ConversationOptions = _struct(
    "u32 struct_size; i32 undo_turns; text template_path template_json; size template_bytes; text system_text; size "
    "system_bytes")
_ConversationInfo = _struct("u32 struct_size; i32 turn_is_open; i64 turn_count undo_count tokens_read")
_DeviceOptions = _struct(
    "u32 struct_size; i32 safe_shaders skip_self_test validation; f64 submission_limit_ms; text backend device "
    "cache_folder")
_TrainerOptions = _struct(
    "u32 struct_size; i32 conv recipe schedule; text preset config_json model_path; u64 seed; i64 batch length; f64 "
    "learning_rate ssm_learning_rate beta1 beta2 epsilon weight_decay clip_norm skip_above; i64 warmup_steps "
    "schedule_steps; f64 final_fraction decay_fraction; i64 keep_checkpoints; i32 dtype recompute logits")
_TrainerInfo = _struct(
    "u32 struct_size; i32 dtype; i64 batch length step sequences parameter_count vocab_size padded_vocab_size; char "
    "device_id:32")
_StepResult = _struct(
    "u32 struct_size; i32 skipped; i64 step scored; f64 loss gradient_norm loss_scale learning_rate")
_Evaluation = _struct("u32 struct_size; f64 loss_sum; i64 scored correct")


# ---------------------------------------------------------------------------------------------------------- library

_handle = c_void_p  # of any object
_out = POINTER(c_void_p)
_ids = POINTER(c_int32)
_size = POINTER(c_size_t)

# name without "riverhorse_": (result, arguments); results that are Status are checked by _call
_functions: "dict[str, tuple[Any, tuple[Any, ...]]]" = {
    "version": (c_char_p, ()),
    "abi_version": (c_uint32, ()),
    "status_name": (c_char_p, (c_int32,)),
    "last_error": (c_char_p, ()),
    "set_log_callback": (None, (_LOG, c_void_p)),
    "list_devices": (Status, (_out,)),
    "device_list_free": (None, (_handle,)),
    "device_list_count": (c_size_t, (_handle,)),
    "device_list_get": (Status, (_handle, c_size_t, POINTER(_DeviceInfo))),
    "device_list_absent_count": (c_size_t, (_handle,)),
    "device_list_get_absent": (Status, (_handle, c_size_t, POINTER(c_char_p), POINTER(c_char_p))),
    "model_estimate_memory": (Status, (c_char_p, POINTER(_ModelOptions), POINTER(_MemoryEstimate))),
    "model_load": (Status, (c_char_p, POINTER(_ModelOptions), _out)),
    "model_load_memory": (Status, (POINTER(_ModelFile), c_size_t, POINTER(_ModelOptions), _out)),
    "model_free": (None, (_handle,)),
    "model_get_info": (Status, (_handle, POINTER(_ModelInfo))),
    "model_encode": (Status, (_handle, c_char_p, c_size_t, c_int, _ids, c_size_t, _size)),
    "model_decode": (Status, (_handle, _ids, c_size_t, c_char_p, c_size_t, _size)),
    "session_create": (Status, (_handle, POINTER(_SamplingOptions), _out)),
    "session_free": (None, (_handle,)),
    "session_set_sampling": (Status, (_handle, POINTER(_SamplingOptions))),
    "session_append": (Status, (_handle, _ids, c_size_t, _PROGRESS, c_void_p)),
    "session_step": (Status, (_handle, _ids)),
    "sessions_step": (Status, (POINTER(c_void_p), c_size_t, _ids)),
    "session_generate": (Status, (_handle, POINTER(_GenerateOptions), _TOKEN, c_void_p, POINTER(_GenerateResult))),
    "session_start_async": (Status, (_handle, _ids, c_size_t, POINTER(_GenerateOptions), _TOKEN, c_void_p)),
    "session_poll": (Status, (_handle, _TOKEN, c_void_p, POINTER(_PollResult))),
    "session_cancel": (Status, (_handle,)),
    "session_position": (c_int64, (_handle,)),
    "session_get_tokens": (Status, (_handle, _ids, c_size_t, _size)),
    "session_get_logits": (Status, (_handle, POINTER(c_float), c_size_t, _size)),
    "session_clone": (Status, (_handle, _out)),
    "session_checkpoint": (Status, (_handle,)),
    "session_rewind": (Status, (_handle, c_int64, POINTER(c_int64))),
    "session_clear": (Status, (_handle,)),
    "session_save": (Status, (_handle, c_char_p)),
    "session_load": (Status, (_handle, c_char_p, POINTER(c_int64))),
    "session_save_memory": (Status, (_handle, c_void_p, c_size_t, _size)),
    "session_load_memory": (Status, (_handle, c_char_p, c_size_t, POINTER(c_int64))),
    "conversation_create": (Status, (_handle, POINTER(_ConversationOptions), POINTER(_SamplingOptions), _out)),
    "conversation_free": (None, (_handle,)),
    "conversation_get_session": (c_void_p, (_handle,)),
    "conversation_begin_turn": (Status, (_handle, c_char_p, c_size_t)),
    "conversation_get_prompt": (Status, (_handle, _ids, c_size_t, _size)),
    "conversation_get_generate_options": (Status, (_handle, POINTER(_GenerateOptions))),
    "conversation_reply": (Status, (_handle, c_int64, _TOKEN, c_void_p, POINTER(_GenerateResult))),
    "conversation_end_turn": (Status, (_handle,)),
    "conversation_undo": (Status, (_handle, c_int64)),
    "conversation_regenerate": (Status, (_handle, POINTER(_SamplingOptions))),
    "conversation_get_info": (Status, (_handle, POINTER(_ConversationInfo))),
    "conversation_get_user_text": (Status, (_handle, c_int64, c_char_p, c_size_t, _size)),
    "conversation_get_reply": (Status, (_handle, c_int64, c_char_p, c_size_t, _size)),
    "conversation_save_memory": (Status, (_handle, c_void_p, c_size_t, _size)),
    "conversation_load_memory": (Status, (_handle, c_char_p, c_size_t)),
    "device_open": (Status, (POINTER(_DeviceOptions), _out)),
    "device_free": (None, (_handle,)),
    "trainer_create": (Status, (_handle, POINTER(_TrainerOptions), _out)),
    "trainer_resume": (Status, (_handle, c_char_p, _out)),
    "trainer_free": (None, (_handle,)),
    "trainer_get_info": (Status, (_handle, POINTER(_TrainerInfo))),
    "trainer_step": (Status, (_handle, _ids, _ids, c_size_t, POINTER(_StepResult))),
    "trainer_evaluate": (Status, (_handle, _ids, _ids, c_size_t, POINTER(_Evaluation))),
    "trainer_save": (Status, (_handle, c_char_p)),
}

_library: Optional[ctypes.CDLL] = None


def _library_candidates() -> "list[str]":
    named = os.environ.get("RIVERHORSE_LIBRARY")
    if named:
        return [named]
    file = f"libriverhorse.so.{ABI_VERSION}"
    here = pathlib.Path(__file__).resolve().parent
    places = [here / name for name in (file, "libriverhorse.so")]
    if here.parts[-3:] == ("share", "riverhorse", "python"):  # as installed
        places += sorted((here.parents[2] / "lib").glob(file)) + sorted((here.parents[2] / "lib").glob(f"*/{file}"))
    return [str(place) for place in places if place.exists()] + [file]


def load_library(path: Optional[Path] = None) -> None:
    """Loads the shared library: the file `path`, or the first of the places named above. The first call of anything
    else does so too; a library that is loaded stays. OSError where there is none, or one of another ABI."""
    global _library
    if _library is not None:
        return
    candidates = [os.fspath(path)] if path is not None else _library_candidates()
    failures = []
    for candidate in candidates:
        try:
            library = ctypes.CDLL(candidate)
            break
        except OSError as error:
            failures.append(str(error))
    else:
        raise OSError(f"the library of Riverhorse cannot be loaded ({'; '.join(failures)}): install it, or name the "
                      "file by the environment variable RIVERHORSE_LIBRARY")
    for name, (result, arguments) in _functions.items():
        function = getattr(library, "riverhorse_" + name, None)
        if function is None:
            raise OSError(f"{candidate} has no riverhorse_{name}: it is older than this file")
        function.restype = c_int32 if result is Status else result
        function.argtypes = arguments
    if library.riverhorse_abi_version() != ABI_VERSION:
        raise OSError(f"{candidate} has the ABI {library.riverhorse_abi_version()}, this file is for {ABI_VERSION}")
    _library = library


def _call(name: str, *arguments: Any) -> Any:
    """Calls riverhorse_<name>; a status that is not 0 is raised, with the library's message."""
    if _library is None:
        load_library()
    result = getattr(_library, "riverhorse_" + name)(*arguments)
    if _functions[name][0] is not Status or result == Status.OK:
        return result
    message = _library.riverhorse_last_error().decode("utf-8", "replace")
    raise _errors.get(result, RiverhorseError)(message)


def _values(kind: Any, raw: _Struct, **others: Any) -> Any:
    """A named tuple of a struct's members, texts as str and truths as bool; `others` are those that differ."""
    values = {name: getattr(raw, name) for name in kind._fields if name not in others}
    types = get_type_hints(kind)
    for name, value in values.items():
        if isinstance(value, bytes):
            values[name] = value.decode("utf-8", "replace")
        elif types[name] is bool:
            values[name] = value != 0
    return kind(**values, **others)


def _make(name: str, *arguments: Any) -> c_void_p:
    """As _call, for a function whose last argument takes a new object."""
    result = c_void_p()
    _call(name, *arguments, ctypes.byref(result))
    return result


def _id_array(ids: Ids) -> Any:
    try:
        values = array.array("i", ids)  # int32_t; an id that does not fit is refused, not cut
    except OverflowError as error:
        raise InvalidArgumentError(f"a token id does not fit 32 bits: {error}") from error
    return (c_int32 * len(values)).from_buffer(values)


def _filled(name: str, handle: c_void_p, element: Any, *arguments: Any) -> Any:
    """What a function gives that fills an array and returns how many elements there are."""
    count = c_size_t()
    _call(name, handle, *arguments, None, 0, ctypes.byref(count))
    values = (element * count.value)()
    _call(name, handle, *arguments, values, count.value, ctypes.byref(count))
    return values


class _Callback:
    """Carries a Python function through C, and what it raises back out."""

    def __init__(self, kind: Any, function: Optional[Callable[..., Optional[bool]]],
                 convert: Callable[..., "tuple[Any, ...]"] = lambda *arguments: arguments) -> None:
        self.raised: Optional[BaseException] = None
        self.pointer = kind()
        if function is None:
            return

        def call(_user: Any, *arguments: Any) -> int:
            try:
                return 1 if function(*convert(*arguments)) is False else 0
            except BaseException as error:  # KeyboardInterrupt too: it must not be lost in C
                self.raised = error
                return 1

        self.pointer = kind(call)

    def call(self, name: str, *arguments: Any) -> Any:
        try:
            return _call(name, *arguments)
        except RiverhorseError:
            if self.raised is None:
                raise
        finally:
            if self.raised is not None:
                raise self.raised


def _token_and_text(token: int, text: Any, size: int) -> "tuple[int, str]":
    return token, ctypes.string_at(text, size).decode()


class _Object:
    """Owns a handle of the library, which is freed once."""

    _free = ""

    def __init__(self, handle: c_void_p) -> None:
        self._owned: Optional[c_void_p] = handle
        self._finalizer = weakref.finalize(self, _call, self._free, handle)  # at exit too, while drivers are there

    @property
    def _handle(self) -> c_void_p:
        if self._owned is None:
            raise InvalidArgumentError(f"this {type(self).__name__} is closed")
        return self._owned

    def close(self) -> None:
        """Frees it; using it afterwards raises. Closing it again does nothing."""
        self._owned = None
        self._finalizer()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()


def version() -> str:
    """Of the library: "0.1.0"."""
    return _call("version").decode()


_log_function = _LOG()


def _silence() -> None:
    if _library is not None and _log_function:
        _library.riverhorse_set_log_callback(_LOG(), None)


def set_log(function: Optional[Callable[[LogLevel, str], None]]) -> None:
    """Sends the library's messages to a function, which may be called in any thread and must not call the library;
    None silences them. Without this, warnings and errors go to stderr."""
    global _log_function

    def on_log(_user: Any, level: int, message: bytes) -> None:
        function(LogLevel(level), message.decode("utf-8", "replace"))  # type: ignore[misc]

    pointer = _LOG() if function is None else _LOG(on_log)
    _call("set_log_callback", pointer, None)
    _log_function = pointer  # the one before may go only now


atexit.register(_silence)  # no Python is called when there is no Python


# ---------------------------------------------------------------------------------------------------------- devices


class DeviceInfo(NamedTuple):
    id: str  # "vulkan:0": what Model(device=...) takes
    backend: str  # "cpu", "vulkan", "cuda"
    name: str
    type: str  # "discrete GPU", "software", ...
    driver: str
    api: str  # "Vulkan 1.3.230", or ""
    uuid: Optional[uuid.UUID]  # None: unknown
    memory_total_bytes: int
    memory_free_bytes: int
    is_default: bool  # taken when nothing is chosen


class AbsentBackend(NamedTuple):
    backend: str
    reason: str


class Devices(NamedTuple):
    present: "list[DeviceInfo]"
    absent: "list[AbsentBackend]"


def list_devices() -> Devices:
    """Every device of every backend as it is now, and the backends without one, with the reason."""
    result = Devices([], [])
    listing = _make("list_devices")
    try:
        for index in range(_call("device_list_count", listing)):
            raw = _DeviceInfo()
            _call("device_list_get", listing, index, ctypes.byref(raw))
            identity = uuid.UUID(bytes=bytes(raw.uuid)) if any(raw.uuid) else None
            result.present.append(_values(DeviceInfo, raw, uuid=identity))
        for index in range(_call("device_list_absent_count", listing)):
            backend, reason = c_char_p(), c_char_p()
            _call("device_list_get_absent", listing, index, ctypes.byref(backend), ctypes.byref(reason))
            result.absent.append(AbsentBackend(backend.value.decode(), reason.value.decode()))
    finally:
        _call("device_list_free", listing)
    return result


# ------------------------------------------------------------------------------------------------ models, sessions


class ModelInfo(NamedTuple):
    dtype: DType
    parameter_count: int  # the tied embedding counted once
    embedding_width: int
    layer_count: int
    attention_layer_count: int
    state_size: int
    vocab_size: int
    padded_vocab_size: int  # columns of the logits
    has_tokenizer: bool
    end_of_text: Optional[int]
    tokenizer_vocab_size: int  # tokens that have a text; 0: no tokenizer
    max_sessions: int
    device_memory_bytes: int  # that the model holds on the device
    device_id: str
    device_name: str
    low_priority: bool  # of its queue, as was asked; False also where the driver has none


class MemoryEstimate(NamedTuple):
    weights_bytes: int
    sessions_bytes: int  # of max_sessions
    workspace_bytes: int
    total_bytes: int
    available_bytes: int  # free on the device: a model fits when the total is no more


class Sampling(NamedTuple):
    """How tokens are drawn; as it stands, greedily. The same seed, model, device and calls give the same tokens."""

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    vocabulary_limit: int = 0  # tokens from here on are never drawn; 0: no limit but the padding columns
    padded_vocabulary: bool = False  # draw from the padding columns of the logits too
    logit_bias: "dict[int, float]" = {}  # token id: what is added to its logit

    def _raw(self) -> _SamplingOptions:
        biases = (_LogitBias * len(self.logit_bias))(
            *(_LogitBias(token=token, bias=bias) for token, bias in self.logit_bias.items()))
        members = self._asdict() | {"logit_bias": ctypes.cast(biases, POINTER(_LogitBias)) if biases else None}
        return _SamplingOptions(**members, logit_bias_count=len(biases))


class Generation(NamedTuple):
    text: str  # "" without a tokenizer
    tokens: "list[int]"  # those drawn; an end-of-text token counts
    stop_reason: StopReason
    seconds: float


def estimate_memory(path: Path, *, backend: Optional[str] = None, device: Optional[str] = None,
                    dtype: Union[DType, str] = DType.DEFAULT, conv: Union[Conv, str] = Conv.AUTO,
                    config_path: Optional[Path] = None, cache_folder: Optional[Path] = None, max_sessions: int = 0,
                    context_tokens: int = 0, prefill_piece_tokens: int = 0, memory_budget_bytes: int = 0,
                    skip_self_test: bool = False) -> MemoryEstimate:
    """What Model() with the same arguments would take on its device; nothing is loaded."""
    options = _ModelOptions(
        dtype=DType.of(dtype), conv=Conv.of(conv), skip_self_test=skip_self_test, max_sessions=max_sessions,
        context_tokens=context_tokens, prefill_piece_tokens=prefill_piece_tokens, config_path=config_path,
        backend=backend, device=device, cache_folder=cache_folder, memory_budget_bytes=memory_budget_bytes)
    raw = _MemoryEstimate()
    _call("model_estimate_memory", os.fsencode(path), ctypes.byref(options), ctypes.byref(raw))
    return _values(MemoryEstimate, raw)


def _generate(name: str, *arguments: Any, on_text: Optional[TextFunction],
              on_token: Optional[TokenFunction]) -> Generation:
    """Calls riverhorse_<name>, whose last arguments are a callback of tokens, its user and a result."""
    tokens: "list[int]" = []
    pieces: "list[str]" = []

    def receive(token: int, text: str) -> bool:
        if token >= 0:
            tokens.append(token)
        pieces.append(text)
        go_on = on_token is None or on_token(token, text) is not False
        return (on_text is None or not text or on_text(text) is not False) and go_on

    callback, result = _Callback(_TOKEN, receive, _token_and_text), _GenerateResult()
    callback.call(name, *arguments, callback.pointer, None, ctypes.byref(result))
    return Generation("".join(pieces), tokens, StopReason(result.stop_reason), result.seconds)


class Model(_Object):
    """A model on a device. Its sessions keep what they need of it: it may be closed before them."""

    _free = "model_free"

    def __init__(self, source: Union[Path, Mapping[str, bytes]], *, backend: Optional[str] = None,
                 device: Optional[str] = None, dtype: Union[DType, str] = DType.DEFAULT,
                 conv: Union[Conv, str] = Conv.AUTO, config_path: Optional[Path] = None,
                 cache_folder: Optional[Path] = None, max_sessions: int = 0, context_tokens: int = 0,
                 prefill_piece_tokens: int = 0, submission_limit_ms: float = 0, memory_budget_bytes: int = 0,
                 safe_shaders: bool = False, skip_self_test: bool = False, validation: bool = False,
                 check_finite: bool = False, low_priority: bool = False, tuning: Union[Tuning, str] = Tuning.AUTO,
                 progress: Optional[ProgressFunction] = None) -> None:
        """Loads a model folder, a .safetensors or a .pt file; or from memory, given the bytes of a model folder's files
        by their names: {"config.json": ..., "model.safetensors": ..., "tokenizer.json": ...}. Arguments that are 0 or
        None mean the defaults of riverhorse_model_options; `progress` counts bytes."""
        callback = _Callback(_PROGRESS, progress)
        options = _ModelOptions(
            dtype=DType.of(dtype), conv=Conv.of(conv), safe_shaders=safe_shaders, skip_self_test=skip_self_test,
            validation=validation, check_finite=check_finite, max_sessions=max_sessions,
            context_tokens=context_tokens, prefill_piece_tokens=prefill_piece_tokens,
            submission_limit_ms=submission_limit_ms, config_path=config_path, backend=backend, device=device,
            cache_folder=cache_folder, progress=callback.pointer, memory_budget_bytes=memory_budget_bytes,
            low_priority=low_priority, tuning=Tuning.of(tuning))
        handle = c_void_p()
        outputs = (ctypes.byref(options), ctypes.byref(handle))
        if isinstance(source, Mapping):
            files = (_ModelFile * len(source))(
                *(_ModelFile(name=name, data=ctypes.cast(c_char_p(data), c_void_p).value, size=len(data))
                  for name, data in source.items()))
            callback.call("model_load_memory", files, len(files), *outputs)
        else:
            callback.call("model_load", os.fsencode(source), *outputs)
        super().__init__(handle)

    @property
    def info(self) -> ModelInfo:
        raw = _ModelInfo()
        _call("model_get_info", self._handle, ctypes.byref(raw))
        return _values(ModelInfo, raw, dtype=DType(raw.dtype),
                       end_of_text=raw.end_of_text if raw.end_of_text >= 0 else None)

    def encode(self, text: Union[str, bytes], special: bool = False) -> "list[int]":
        """Text to token ids; with `special`, texts like "<|endoftext|>" become their ids."""
        data = text.encode() if isinstance(text, str) else text
        return list(_filled("model_encode", self._handle, c_int32, data, len(data), int(special)))

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of tokens; those of a single one may be a part of a character."""
        values = _id_array(ids)
        return bytes(_filled("model_decode", self._handle, c_char, values, len(values)))

    def decode(self, ids: Ids) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def session(self, sampling: Sampling = Sampling()) -> "Session":
        """An empty text on the model's device."""
        return Session(self, _make("session_create", self._handle, ctypes.byref(sampling._raw())))


class Session(_Object):
    """A text and its state; Model.session() makes one."""

    _free = "session_free"

    def __init__(self, model: Model, handle: c_void_p) -> None:
        super().__init__(handle)
        self.model = model

    def set_sampling(self, sampling: Sampling) -> None:
        """Other sampling options; the random numbers begin again at the seed."""
        _call("session_set_sampling", self._handle, ctypes.byref(sampling._raw()))

    def append(self, text_or_ids: Union[str, Ids], progress: Optional[ProgressFunction] = None) -> None:
        """Reads a text or tokens into the state; `progress` counts tokens, and those read before it cancels stay."""
        ids = self.model.encode(text_or_ids) if isinstance(text_or_ids, str) else text_or_ids
        values, callback = _id_array(ids), _Callback(_PROGRESS, progress)
        callback.call("session_append", self._handle, values, len(values), callback.pointer, None)

    def step(self) -> int:
        """Draws the next token, reads it into the state and returns it."""
        token = c_int32()
        _call("session_step", self._handle, ctypes.byref(token))
        return token.value

    def generate(self, max_tokens: int = 128, *, stop: Sequence[str] = (), ignore_end_of_text: bool = False,
                 on_text: Optional[TextFunction] = None, on_token: Optional[TokenFunction] = None) -> Generation:
        """Draws tokens until something stops it. `on_text` is given whole characters as they are drawn, `on_token`
        every token with the text that it completes; either stops with False. A stop string is in no text."""
        options = self._generate_options(max_tokens, stop, ignore_end_of_text)
        return _generate("session_generate", self._handle, ctypes.byref(options), on_text=on_text, on_token=on_token)

    def stream(self, text_or_ids: Union[str, Ids] = (), max_tokens: int = 128, *, stop: Sequence[str] = (),
               ignore_end_of_text: bool = False) -> Iterator[str]:
        """Reads a text or tokens and yields what is drawn after it, which a thread of the library's goes on with
        meanwhile. Until the last text is out, or the generator is closed, only position and tokens may be used, and
        cancel()."""
        ids = _id_array(self.model.encode(text_or_ids) if isinstance(text_or_ids, str) else text_or_ids)
        options, state = self._generate_options(max_tokens, stop, ignore_end_of_text), _PollResult()
        pieces: "list[str]" = []
        callback = _Callback(_TOKEN, lambda _token, text: pieces.append(text), _token_and_text)
        _call("session_start_async", self._handle, ids, len(ids), ctypes.byref(options), _TOKEN(), None)
        state.running = 1
        try:
            while state.running:
                callback.call("session_poll", self._handle, callback.pointer, None, ctypes.byref(state))
                text = "".join(pieces)
                pieces.clear()
                if text:
                    yield text
                elif state.running:
                    time.sleep(0.001)
        finally:
            if state.running and self._owned is not None:
                self.cancel()
                while state.running:
                    _call("session_poll", self._handle, callback.pointer, None, ctypes.byref(state))
                    time.sleep(0.001)

    def cancel(self) -> None:
        """Ends what this session does or waits to do, from any thread: append raises CancelledError, a generation
        has the stop reason CANCELLED."""
        _call("session_cancel", self._handle)

    @staticmethod
    def _generate_options(max_tokens: int, stop: Sequence[str], ignore_end_of_text: bool) -> Any:
        strings = (c_char_p * len(stop))(*(each.encode() for each in stop))
        return _GenerateOptions(max_tokens=max_tokens, ignore_end_of_text=ignore_end_of_text,
                                stop_strings=ctypes.cast(strings, POINTER(c_char_p)) if stop else None,
                                stop_string_count=len(stop))

    @property
    def position(self) -> int:
        """Tokens in the state."""
        return _call("session_position", self._handle)

    @property
    def tokens(self) -> "list[int]":
        """All tokens of the text, in order."""
        return list(_filled("session_get_tokens", self._handle, c_int32))

    @property
    def text(self) -> str:
        return self.model.decode(self.tokens)

    def logits(self) -> "array.array[float]":
        """After the last token, (padded_vocab_size) floats; numpy.frombuffer(..., "f4") makes no copy of them."""
        return array.array("f", bytes(_filled("session_get_logits", self._handle, c_float)))

    def clone(self) -> "Session":
        """A copy of everything, random numbers included, that continues exactly as this one would."""
        return Session(self.model, _make("session_clone", self._handle))

    def checkpoint(self) -> None:
        """Remembers the state at this position, so that rewind() to here or later is cheap."""
        _call("session_checkpoint", self._handle)

    def rewind(self, position: int) -> int:
        """Goes back to an earlier position, exactly; returns how many tokens had to be read again."""
        again = c_int64()
        _call("session_rewind", self._handle, position, ctypes.byref(again))
        return again.value

    def clear(self) -> None:
        """Back to an empty text."""
        _call("session_clear", self._handle)

    def save(self, path: Path) -> None:
        """Writes the whole session to a file, whole or not at all."""
        _call("session_save", self._handle, os.fsencode(path))

    def load(self, path: Path) -> int:
        """Becomes the saved session, of the same model; returns the tokens whose state came from the file: all."""
        reused = c_int64()
        _call("session_load", self._handle, os.fsencode(path), ctypes.byref(reused))
        return reused.value

    def save_bytes(self) -> bytes:
        """The bytes of such a file."""
        return bytes(_filled("session_save_memory", self._handle, c_uint8))

    def load_bytes(self, data: bytes) -> int:
        reused = c_int64()
        _call("session_load_memory", self._handle, data, len(data), ctypes.byref(reused))
        return reused.value


def step_sessions(sessions: Sequence[Session]) -> "list[int]":
    """One token for each of several sessions of one model at once, which is faster than one after the other."""
    handles = (c_void_p * len(sessions))(*(session._handle.value for session in sessions))
    tokens = (c_int32 * len(sessions))()
    _call("sessions_step", handles, len(sessions), tokens)
    return list(tokens)


# --------------------------------------------------------------------------------------------------------- training


class TrainerInfo(NamedTuple):
    dtype: DType
    batch: int
    length: int
    step: int  # done
    sequences: int  # of all steps
    parameter_count: int
    vocab_size: int
    padded_vocab_size: int
    device_id: str


class StepResult(NamedTuple):
    skipped: bool  # the gradient norm was not finite or above skip_above, and nothing was changed
    step: int  # this one, from 1
    scored: int  # tokens
    loss: float  # mean over them, natural logarithm, before the update
    gradient_norm: float  # before clipping
    loss_scale: float
    learning_rate: float


class Evaluation(NamedTuple):
    loss_sum: float  # over the scored tokens
    scored: int
    correct: int  # of them, where the largest logit was the target's


class Device(_Object):
    """A device to train on; without arguments the best one that trains. Its trainers keep it alive."""

    _free = "device_free"

    def __init__(self, *, backend: Optional[str] = None, device: Optional[str] = None,
                 cache_folder: Optional[Path] = None, submission_limit_ms: float = 0, safe_shaders: bool = False,
                 skip_self_test: bool = False, validation: bool = False) -> None:
        options = _DeviceOptions(backend=backend, device=device, cache_folder=cache_folder,
                                 submission_limit_ms=submission_limit_ms, safe_shaders=safe_shaders,
                                 skip_self_test=skip_self_test, validation=validation)
        super().__init__(_make("device_open", ctypes.byref(options)))


class Trainer(_Object):
    """A training. The model is exactly one of `preset`, `config_json` and `model_path`; the other options are those
    of riverhorse_trainer_options by name (batch, length, learning_rate, schedule, ...), enumerations also by their
    names in lower case: schedule="cosine"."""

    _free = "trainer_free"
    _enumerations = {"conv": Conv, "recipe": Recipe, "schedule": Schedule, "dtype": DType, "recompute": Recompute,
                     "logits": Logits}

    def __init__(self, device: Device, *, preset: Optional[str] = None, config_json: Optional[str] = None,
                 model_path: Optional[Path] = None, **options: Any) -> None:
        known = {name for name, _ in _TrainerOptions._fields_} - {"struct_size"}
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"there is no training option {name!r}; there are: {', '.join(sorted(known))}")
            if name in self._enumerations:
                options[name] = self._enumerations[name].of(value)
        raw = _TrainerOptions(preset=preset, config_json=config_json, model_path=model_path, **options)
        super().__init__(_make("trainer_create", device._handle, ctypes.byref(raw)))

    @classmethod
    def resume(cls, device: Device, folder: Path) -> "Trainer":
        """Goes on exactly where a trainer was saved, from the newest checkpoint in `folder`, with its options."""
        trainer = cls.__new__(cls)
        _Object.__init__(trainer, _make("trainer_resume", device._handle, os.fsencode(folder)))
        return trainer

    @property
    def info(self) -> TrainerInfo:
        raw = _TrainerInfo()
        _call("trainer_get_info", self._handle, ctypes.byref(raw))
        return _values(TrainerInfo, raw, dtype=DType(raw.dtype))

    def step(self, ids: Ids, targets: Optional[Ids] = None) -> StepResult:
        """One step on whole sequences, one behind the other: `ids` and `targets` (sequences x length). A target is
        the id that should follow, -1 where nothing is scored; without targets they are the next ids."""
        raw = _StepResult()
        _call("trainer_step", self._handle, *self._batch(ids, targets), ctypes.byref(raw))
        return _values(StepResult, raw)

    def evaluate(self, ids: Ids, targets: Optional[Ids] = None) -> Evaluation:
        """The loss of such sequences, without dropout; changes nothing."""
        raw = _Evaluation()
        _call("trainer_evaluate", self._handle, *self._batch(ids, targets), ctypes.byref(raw))
        return _values(Evaluation, raw)

    def save(self, folder: Path) -> None:
        """Writes the checkpoint <folder>/step-<8 digits>, a model folder for Model() too, whole or not at all."""
        _call("trainer_save", self._handle, os.fsencode(folder))

    def _batch(self, ids: Ids, targets: Optional[Ids]) -> "tuple[Any, Any, int]":
        values = _id_array(ids)
        goals = None if targets is None else _id_array(targets)
        length = self.info.length
        if len(values) % length != 0 or (goals is not None and len(goals) != len(values)):
            count = "no" if goals is None else len(goals)
            raise InvalidArgumentError(f"{len(values)} ids and {count} targets are not sequences of {length} tokens")
        return values, goals, len(values) // length
