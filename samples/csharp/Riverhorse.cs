// Riverhorse from C#: language models, by P/Invoke over the C API. Add this file and Native.cs to a project.
//
//   using (var model = new Riverhorse.Model("samples/models/default"))
//   using (var session = model.CreateSession()) {
//     session.Append("It was late in the evening when");
//     session.Generate(new Riverhorse.GenerateOptions { MaxTokens = 48 }, text => Console.Write(text));
//   }
//
// The shared library, libriverhorse.so.0, is found beside the program, as the dynamic loader finds it, or in the
// folders of LD_LIBRARY_PATH. Members of option classes that are 0 or null mean the defaults, as in
// riverhorse/riverhorse.h, which also says more about each call. What fails throws a RiverhorseException with the
// library's message. An exception in a callback stops the call that it was given to, and leaves that call. Models and
// sessions are freed by Dispose, or when they are collected; a session keeps what it needs of its model. Threads: as
// riverhorse.h says.
using System;
using System.Collections.Generic;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Riverhorse {

public enum Status {
  Ok = 0,
  InvalidArgument = 1,
  NotFound = 2,
  BadFile = 3,
  Unsupported = 4,
  OutOfMemory = 5,
  DeviceLost = 6,
  IoError = 7,
  Cancelled = 8,
  Internal = 9
}

public enum LogLevel { Debug = 0, Info = 1, Warning = 2, Error = 3 }

public enum DType { Default = 0, F32 = 1, F16 = 2, BF16 = 3 }

public enum Conv { Auto = 0, Chunked = 1, Fft = 2 }

public enum Tuning { Auto = 0, On = 1, Off = 2 }

public enum StopReason { MaxTokens = 0, EndOfText = 1, String = 2, Callback = 3, Cancelled = 4 }

/// <summary>A call failed: the library's message, and its status.</summary>
public sealed class RiverhorseException : Exception {
  public Status Status { get; private set; }

  public RiverhorseException(Status status, string message) : base(message) { Status = status; }
}

/// <summary>Is given tokens as they are drawn (-1 in a last call) and the text that each completes, whole characters
/// only; false stops.</summary>
public delegate bool TokenFunction(int token, string text);

/// <summary>Is told how much is done, in a unit of the call's; false cancels.</summary>
public delegate bool ProgressFunction(ulong done, ulong total);

// ------------------------------------------------------------------------------------------------ library, devices

public sealed class DeviceInfo {
  /// <summary>"vulkan:0": what ModelOptions.Device takes.</summary>
  public string Id { get; internal set; }
  /// <summary>"cpu", "vulkan" or "cuda".</summary>
  public string Backend { get; internal set; }
  public string Name { get; internal set; }
  /// <summary>"discrete GPU", "software", ...</summary>
  public string Type { get; internal set; }
  public string Driver { get; internal set; }
  /// <summary>"Vulkan 1.3.230", or "".</summary>
  public string Api { get; internal set; }
  /// <summary>Of the physical device, 16 bytes; all zero: unknown.</summary>
  public byte[] Uuid { get; internal set; }
  public ulong MemoryTotalBytes { get; internal set; }
  public ulong MemoryFreeBytes { get; internal set; }
  /// <summary>Taken when nothing is chosen.</summary>
  public bool IsDefault { get; internal set; }
}

public sealed class Devices {
  public readonly List<DeviceInfo> Present = new List<DeviceInfo>();
  /// <summary>The backends without a device, each with the reason.</summary>
  public readonly Dictionary<string, string> Absent = new Dictionary<string, string>();
}

public static class Library {
  static Action<LogLevel, string> log;
  static readonly Native.log_callback onLog = OnLog;
  static bool silencedAtExit;

  /// <summary>"0.1.0".</summary>
  public static string Version {
    get { return Native.Text(Native.riverhorse_version()); }
  }

  /// <summary>Sends the library's messages to a function, which may be called in any thread and must not call the
  /// library; null silences them. Without this call, warnings and errors go to stderr.</summary>
  public static void SetLog(Action<LogLevel, string> function) {
    Native.CheckAbi();
    if (!silencedAtExit) {  // no C# is called when there is no runtime
      AppDomain.CurrentDomain.ProcessExit +=
          (sender, arguments) => Native.riverhorse_set_log_callback(null, IntPtr.Zero);
      silencedAtExit = true;
    }
    log = function;
    Native.riverhorse_set_log_callback(function == null ? null : onLog, IntPtr.Zero);
  }

  [MonoPInvokeCallback(typeof(Native.log_callback))]
  static void OnLog(IntPtr user, LogLevel level, IntPtr message) {
    try {
      var function = log;
      if (function != null) function(level, Native.Text(message));
    } catch (Exception) {
      // There is no call that it could leave, and it must not go through C.
    }
  }

  /// <summary>Every device of every backend as it is now, and the backends without one.</summary>
  public static Devices ListDevices() {
    Native.CheckAbi();
    var result = new Devices();
    IntPtr list;
    Native.Check(Native.riverhorse_list_devices(out list));
    try {
      for (ulong i = 0; i < (ulong)Native.riverhorse_device_list_count(list); ++i) {
        var raw = new Native.device_info { struct_size = Native.SizeOf<Native.device_info>() };
        Native.Check(Native.riverhorse_device_list_get(list, (UIntPtr)i, ref raw));
        result.Present.Add(new DeviceInfo {
          Id = Native.Text(raw.id), Backend = Native.Text(raw.backend), Name = Native.Text(raw.name),
          Type = Native.Text(raw.type), Driver = Native.Text(raw.driver), Api = Native.Text(raw.api), Uuid = raw.uuid,
          MemoryTotalBytes = raw.memory_total_bytes, MemoryFreeBytes = raw.memory_free_bytes,
          IsDefault = raw.is_default != 0
        });
      }
      for (ulong i = 0; i < (ulong)Native.riverhorse_device_list_absent_count(list); ++i) {
        IntPtr backend, reason;
        Native.Check(Native.riverhorse_device_list_get_absent(list, (UIntPtr)i, out backend, out reason));
        result.Absent[Native.Text(backend)] = Native.Text(reason);
      }
    } finally {
      Native.riverhorse_device_list_free(list);
    }
    return result;
  }
}

// ---------------------------------------------------------------------------------------------------------- models

/// <summary>The members of riverhorse_model_options, which says what they mean.</summary>
public sealed class ModelOptions {
  public DType DType;
  public Conv Conv;
  public bool SafeShaders;
  public bool SkipSelfTest;
  public bool Validation;
  public bool CheckFinite;
  public int MaxSessions;
  public long ContextTokens;
  public long PrefillPieceTokens;
  public double SubmissionLimitMs;
  public string ConfigPath;
  public string Backend;
  public string Device;
  public string CacheFolder;
  /// <summary>Of loading, in bytes.</summary>
  public ProgressFunction Progress;
  public ulong MemoryBudgetBytes;
  public bool LowPriority;
  public Tuning Tuning;
}

/// <summary>What a model takes on its device, and what is free there.</summary>
public sealed class MemoryEstimate {
  public ulong WeightsBytes { get; internal set; }
  /// <summary>Of ModelOptions.MaxSessions sessions.</summary>
  public ulong SessionsBytes { get; internal set; }
  public ulong WorkspaceBytes { get; internal set; }
  public ulong TotalBytes { get; internal set; }
  /// <summary>A model fits when the total is no more.</summary>
  public ulong AvailableBytes { get; internal set; }
}

public sealed class ModelInfo {
  public DType DType { get; internal set; }
  public long ParameterCount { get; internal set; }
  public long EmbeddingWidth { get; internal set; }
  public long LayerCount { get; internal set; }
  public long AttentionLayerCount { get; internal set; }
  public long StateSize { get; internal set; }
  public long VocabSize { get; internal set; }
  /// <summary>Columns of the logits.</summary>
  public long PaddedVocabSize { get; internal set; }
  public bool HasTokenizer { get; internal set; }
  /// <summary>A token id; -1: none.</summary>
  public int EndOfText { get; internal set; }
  public long TokenizerVocabSize { get; internal set; }
  public long MaxSessions { get; internal set; }
  /// <summary>That the model holds on the device.</summary>
  public ulong DeviceMemoryBytes { get; internal set; }
  public string DeviceId { get; internal set; }
  public string DeviceName { get; internal set; }
  /// <summary>Of its queue, as was asked; false also where the driver has none.</summary>
  public bool LowPriority { get; internal set; }
}

/// <summary>A model on a device.</summary>
public sealed class Model : IDisposable {
  internal readonly ModelHandle handle;

  /// <summary>Loads a model folder, a .safetensors or a .pt file.</summary>
  public Model(string path, ModelOptions options = null) {
    if (path == null) throw new ArgumentNullException("path");
    handle = Load(options, scope => Native.riverhorse_model_load(scope.Text(path), ref scope.Options, out scope.Model));
  }

  /// <summary>Loads a model from memory: the files of a model folder by their names ("config.json",
  /// "model.safetensors", "tokenizer.json", ...). They are needed during the call only.</summary>
  public Model(IDictionary<string, byte[]> files, ModelOptions options = null) {
    if (files == null) throw new ArgumentNullException("files");
    handle = Load(options, scope => {
      var raw = new List<Native.model_file>();
      foreach (var file in files) {
        raw.Add(new Native.model_file { name = scope.Text(file.Key), data = scope.Pin(file.Value),
                                        size = Native.Size(file.Value) });
      }
      return Native.riverhorse_model_load_memory(raw.ToArray(), (UIntPtr)(uint)raw.Count, ref scope.Options,
                                                 out scope.Model);
    });
  }

  /// <summary>What loading with these options would take; nothing is loaded.</summary>
  public static MemoryEstimate EstimateMemory(string path, ModelOptions options = null) {
    if (path == null) throw new ArgumentNullException("path");
    var raw = new Native.memory_estimate { struct_size = Native.SizeOf<Native.memory_estimate>() };
    Load(options,
         scope => Native.riverhorse_model_estimate_memory(scope.Text(path), ref scope.Options, ref raw));
    return new MemoryEstimate { WeightsBytes = raw.weights_bytes, SessionsBytes = raw.sessions_bytes,
                                WorkspaceBytes = raw.workspace_bytes, TotalBytes = raw.total_bytes,
                                AvailableBytes = raw.available_bytes };
  }

  sealed class LoadScope : Scope {
    internal Native.model_options Options;
    internal ModelHandle Model;
  }

  static ModelHandle Load(ModelOptions options, Func<LoadScope, Status> load) {
    Native.CheckAbi();
    var given = options ?? new ModelOptions();
    using (var carrier = new Carrier { Progress = given.Progress })
    using (var scope = new LoadScope()) {
      scope.Options = new Native.model_options {
        struct_size = Native.SizeOf<Native.model_options>(), dtype = given.DType, conv = given.Conv,
        safe_shaders = given.SafeShaders ? 1 : 0, skip_self_test = given.SkipSelfTest ? 1 : 0,
        validation = given.Validation ? 1 : 0, check_finite = given.CheckFinite ? 1 : 0,
        max_sessions = given.MaxSessions, context_tokens = given.ContextTokens,
        prefill_piece_tokens = given.PrefillPieceTokens, submission_limit_ms = given.SubmissionLimitMs,
        config_path = scope.Text(given.ConfigPath), backend = scope.Text(given.Backend),
        device = scope.Text(given.Device), cache_folder = scope.Text(given.CacheFolder),
        progress = given.Progress == null ? IntPtr.Zero : Marshal.GetFunctionPointerForDelegate(Carrier.OnProgress),
        progress_user = carrier.User, memory_budget_bytes = given.MemoryBudgetBytes,
        low_priority = given.LowPriority ? 1 : 0, tuning = given.Tuning
      };
      carrier.Check(load(scope));
      return scope.Model;
    }
  }

  public void Dispose() { handle.Dispose(); }

  public ModelInfo Info {
    get {
      var raw = new Native.model_info { struct_size = Native.SizeOf<Native.model_info>() };
      Native.Check(Native.riverhorse_model_get_info(handle, ref raw));
      return new ModelInfo {
        DType = raw.dtype, ParameterCount = raw.parameter_count, EmbeddingWidth = raw.embedding_width,
        LayerCount = raw.layer_count, AttentionLayerCount = raw.attention_layer_count, StateSize = raw.state_size,
        VocabSize = raw.vocab_size, PaddedVocabSize = raw.padded_vocab_size, HasTokenizer = raw.has_tokenizer != 0,
        EndOfText = raw.end_of_text, TokenizerVocabSize = raw.tokenizer_vocab_size, MaxSessions = raw.max_sessions,
        DeviceMemoryBytes = raw.device_memory_bytes, DeviceId = Native.Text(raw.device_id),
        DeviceName = Native.Text(raw.device_name), LowPriority = raw.low_priority != 0
      };
    }
  }

  /// <summary>Text to token ids; with `special`, texts like "&lt;|endoftext|&gt;" become their ids.</summary>
  public int[] Encode(string text, bool special = false) {
    var bytes = Encoding.UTF8.GetBytes(text);
    return Native.Filled<int>((int[] ids, UIntPtr capacity, out UIntPtr count) => Native.riverhorse_model_encode(
        handle, bytes, Native.Size(bytes), special ? 1 : 0, ids, capacity, out count));
  }

  /// <summary>The bytes of tokens; those of a single one may be a part of a character.</summary>
  public byte[] DecodeBytes(int[] ids) {
    return Native.Filled<byte>((byte[] text, UIntPtr capacity, out UIntPtr count) => Native.riverhorse_model_decode(
        handle, ids, Native.Size(ids), text, capacity, out count));
  }

  public string Decode(int[] ids) { return Encoding.UTF8.GetString(DecodeBytes(ids)); }

  /// <summary>An empty text on the model's device.</summary>
  public Session CreateSession(SamplingOptions sampling = null) {
    SessionHandle session;
    using (var scope = new Scope()) {
      var raw = SamplingOptions.Raw(sampling, scope);
      Native.Check(Native.riverhorse_session_create(handle, ref raw, out session));
    }
    return new Session(this, session);
  }
}

// -------------------------------------------------------------------------------------------------------- sessions

/// <summary>How tokens are drawn: the members of riverhorse_sampling_options; all 0 is greedy.</summary>
public sealed class SamplingOptions {
  public bool PaddedVocabulary;
  public double Temperature;
  public long TopK;
  public double TopP;
  public double MinP;
  public double RepetitionPenalty;
  public double PresencePenalty;
  public double FrequencyPenalty;
  public ulong Seed;
  public long VocabularyLimit;
  /// <summary>Token id: what is added to its logit. May be null.</summary>
  public IDictionary<int, float> LogitBias;

  internal static Native.sampling_options Raw(SamplingOptions options, Scope scope) {
    var given = options ?? new SamplingOptions();
    var biases = new List<Native.logit_bias>();
    foreach (var each in given.LogitBias ?? new Dictionary<int, float>()) {
      biases.Add(new Native.logit_bias { token = each.Key, bias = each.Value });
    }
    return new Native.sampling_options {
      struct_size = Native.SizeOf<Native.sampling_options>(), padded_vocabulary = given.PaddedVocabulary ? 1 : 0,
      temperature = given.Temperature, top_k = given.TopK, top_p = given.TopP, min_p = given.MinP,
      repetition_penalty = given.RepetitionPenalty, presence_penalty = given.PresencePenalty,
      frequency_penalty = given.FrequencyPenalty, seed = given.Seed, vocabulary_limit = given.VocabularyLimit,
      logit_bias = biases.Count == 0 ? IntPtr.Zero : scope.Pin(biases.ToArray()),
      logit_bias_count = (UIntPtr)(uint)biases.Count
    };
  }
}

public sealed class GenerateOptions {
  public bool IgnoreEndOfText;
  public long MaxTokens;
  /// <summary>They and what follows them are in no text. May be null.</summary>
  public string[] StopStrings;

  internal static Native.generate_options Raw(GenerateOptions options, Scope scope) {
    var given = options ?? new GenerateOptions();
    var strings = Array.ConvertAll(given.StopStrings ?? new string[0], scope.Text);
    return new Native.generate_options {
      struct_size = Native.SizeOf<Native.generate_options>(), ignore_end_of_text = given.IgnoreEndOfText ? 1 : 0,
      max_tokens = given.MaxTokens, stop_strings = strings.Length == 0 ? IntPtr.Zero : scope.Pin(strings),
      stop_string_count = Native.Size(strings)
    };
  }
}

public sealed class GenerateResult {
  public StopReason StopReason { get; internal set; }
  /// <summary>Drawn in this call; an end-of-text token counts.</summary>
  public long TokenCount { get; internal set; }
  public double Seconds { get; internal set; }
}

public sealed class PollResult {
  /// <summary>Tokens are still to be read or to come.</summary>
  public bool Running { get; internal set; }
  /// <summary>When it does not run any more.</summary>
  public StopReason StopReason { get; internal set; }
  /// <summary>Since the start.</summary>
  public long TokenCount { get; internal set; }
}

/// <summary>A text and its state; Model.CreateSession makes one. Not to be disposed of in a callback of a session of
/// the same model.</summary>
public sealed class Session : IDisposable {
  readonly Model model;
  readonly SessionHandle handle;

  internal Session(Model model, SessionHandle handle) {
    this.model = model;
    this.handle = handle;
  }

  public void Dispose() { handle.Dispose(); }

  /// <summary>Other sampling options; the random numbers begin again at the seed.</summary>
  public void SetSampling(SamplingOptions sampling) {
    using (var scope = new Scope()) {
      var raw = SamplingOptions.Raw(sampling, scope);
      Native.Check(Native.riverhorse_session_set_sampling(handle, ref raw));
    }
  }

  public void Append(string text, ProgressFunction progress = null) { Append(model.Encode(text), progress); }

  /// <summary>Reads tokens into the state; `progress` counts them, and those read before it cancels stay.</summary>
  public void Append(int[] ids, ProgressFunction progress = null) {
    using (var carrier = new Carrier { Progress = progress }) {
      carrier.Check(Native.riverhorse_session_append(handle, ids, Native.Size(ids),
                                                     progress == null ? null : Carrier.OnProgress, carrier.User));
    }
  }

  /// <summary>Draws the next token, reads it into the state and returns it.</summary>
  public int Step() {
    int token;
    Native.Check(Native.riverhorse_session_step(handle, out token));
    return token;
  }

  /// <summary>One token for each of several sessions of one model at once, which is faster than one after the
  /// other.</summary>
  public static int[] Step(params Session[] sessions) {
    var held = new List<SessionHandle>();
    try {
      foreach (var session in sessions) {
        bool added = false;
        session.handle.DangerousAddRef(ref added);
        held.Add(session.handle);
      }
      var tokens = new int[sessions.Length];
      Native.Check(Native.riverhorse_sessions_step(held.ConvertAll(each => each.DangerousGetHandle()).ToArray(),
                                                   Native.Size(sessions), tokens));
      return tokens;
    } finally {
      foreach (var each in held) each.DangerousRelease();
    }
  }

  /// <summary>Draws tokens until something stops it, and gives their text, whole characters, as it comes.</summary>
  public GenerateResult Generate(GenerateOptions options, Action<string> onText) {
    return Generate(options, (token, text) => {
      if (text.Length > 0) onText(text);
      return true;
    });
  }

  /// <summary>The same with a function that is given every token and may stop it; it may be null.</summary>
  public GenerateResult Generate(GenerateOptions options = null, TokenFunction onToken = null) {
    var result = new Native.generate_result { struct_size = Native.SizeOf<Native.generate_result>() };
    using (var carrier = new Carrier { Token = onToken })
    using (var scope = new Scope()) {
      var raw = GenerateOptions.Raw(options, scope);
      carrier.Check(Native.riverhorse_session_generate(handle, ref raw, onToken == null ? null : Carrier.OnToken,
                                                       carrier.User, ref result));
    }
    return new GenerateResult { StopReason = result.stop_reason, TokenCount = result.token_count,
                                Seconds = result.seconds };
  }

  /// <summary>Reads a text and generates on a thread of the library's; returns at once. Poll gives what was drawn.
  /// While it runs, only Poll, Cancel, Position, Tokens and Dispose may be used.</summary>
  public void Start(string text, GenerateOptions options = null) { Start(model.Encode(text), options); }

  public void Start(int[] ids, GenerateOptions options = null) {
    using (var scope = new Scope()) {
      var raw = GenerateOptions.Raw(options, scope);
      Native.Check(Native.riverhorse_session_start_async(handle, ids, Native.Size(ids), ref raw, null, IntPtr.Zero));
    }
  }

  /// <summary>Passes on what was drawn since the last call, without waiting: to be called once a frame.</summary>
  public PollResult Poll(TokenFunction onToken) {
    var result = new Native.poll_result { struct_size = Native.SizeOf<Native.poll_result>() };
    using (var carrier = new Carrier { Token = onToken }) {
      carrier.Check(Native.riverhorse_session_poll(handle, onToken == null ? null : Carrier.OnToken, carrier.User,
                                                   ref result));
    }
    return new PollResult { Running = result.running != 0, StopReason = result.stop_reason,
                            TokenCount = result.token_count };
  }

  /// <summary>Ends what this session does or waits to do, from any thread: Append throws (Status.Cancelled), a
  /// generation has StopReason.Cancelled.</summary>
  public void Cancel() { Native.Check(Native.riverhorse_session_cancel(handle)); }

  /// <summary>Tokens in the state.</summary>
  public long Position {
    get { return Native.riverhorse_session_position(handle); }
  }

  public int[] GetTokens() {
    return Native.Filled<int>((int[] ids, UIntPtr capacity, out UIntPtr count) =>
                                  Native.riverhorse_session_get_tokens(handle, ids, capacity, out count));
  }

  public string GetText() { return model.Decode(GetTokens()); }

  /// <summary>After the last token, PaddedVocabSize numbers.</summary>
  public float[] GetLogits() {
    return Native.Filled<float>((float[] logits, UIntPtr capacity, out UIntPtr count) =>
                                    Native.riverhorse_session_get_logits(handle, logits, capacity, out count));
  }

  /// <summary>A copy of everything, random numbers included, that continues exactly as this one would.</summary>
  public Session Clone() {
    SessionHandle copy;
    Native.Check(Native.riverhorse_session_clone(handle, out copy));
    return new Session(model, copy);
  }

  /// <summary>Remembers the state at this position, so that Rewind to here or later is cheap.</summary>
  public void Checkpoint() { Native.Check(Native.riverhorse_session_checkpoint(handle)); }

  /// <summary>Goes back to an earlier position, exactly; returns how many tokens had to be read again.</summary>
  public long Rewind(long position) {
    long again;
    Native.Check(Native.riverhorse_session_rewind(handle, position, out again));
    return again;
  }

  /// <summary>Back to an empty text.</summary>
  public void Clear() { Native.Check(Native.riverhorse_session_clear(handle)); }

  /// <summary>Writes the whole session to a file, whole or not at all.</summary>
  public void Save(string path) {
    using (var scope = new Scope()) Native.Check(Native.riverhorse_session_save(handle, scope.Text(path)));
  }

  /// <summary>Becomes the saved session, of the same model; returns the tokens whose state came from the file:
  /// all.</summary>
  public long Load(string path) {
    long reused;
    using (var scope = new Scope()) Native.Check(Native.riverhorse_session_load(handle, scope.Text(path), out reused));
    return reused;
  }

  /// <summary>The bytes of such a file, for a saved game.</summary>
  public byte[] SaveBytes() {
    return Native.Filled<byte>((byte[] data, UIntPtr capacity, out UIntPtr size) =>
                                   Native.riverhorse_session_save_memory(handle, data, capacity, out size));
  }

  public long LoadBytes(byte[] data) {
    long reused;
    Native.Check(Native.riverhorse_session_load_memory(handle, data, Native.Size(data), out reused));
    return reused;
  }
}
}
