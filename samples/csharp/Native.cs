// The C API as it is (riverhorse/riverhorse.h and conversation.h, which describe all of this), by its own names, and
// what carries strings, arrays, callbacks and handles across. Riverhorse.cs and Conversation.cs are what programs use.
using System;
using System.Collections.Generic;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Riverhorse {

static class Native {
  const string library = "libriverhorse.so.0";
  const CallingConvention cdecl = CallingConvention.Cdecl;
  internal const uint AbiVersion = 0;  // of the header that this file is made after

  // -------------------------------------------------------------------------------------------------- structures
  // Texts and arrays in them are pointers, which a Scope makes; callbacks too.

  [StructLayout(LayoutKind.Sequential)]
  internal struct device_info {
    internal uint struct_size;
    internal int is_default;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 32)] internal byte[] id;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 16)] internal byte[] backend;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 256)] internal byte[] name;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 32)] internal byte[] type;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 256)] internal byte[] driver;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 64)] internal byte[] api;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 16)] internal byte[] uuid;
    internal ulong memory_total_bytes;
    internal ulong memory_free_bytes;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct model_options {
    internal uint struct_size;
    internal DType dtype;
    internal Conv conv;
    internal int safe_shaders;
    internal int skip_self_test;
    internal int validation;
    internal int check_finite;
    internal int max_sessions;
    internal long context_tokens;
    internal long prefill_piece_tokens;
    internal double submission_limit_ms;
    internal IntPtr config_path;
    internal IntPtr backend;
    internal IntPtr device;
    internal IntPtr cache_folder;
    internal IntPtr progress;
    internal IntPtr progress_user;
    internal IntPtr adopted_device;
    internal ulong memory_budget_bytes;
    internal int low_priority;
    internal int frame_sessions;
    internal Tuning tuning;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct model_file {
    internal IntPtr name;
    internal IntPtr data;
    internal UIntPtr size;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct memory_estimate {
    internal uint struct_size;
    internal ulong weights_bytes;
    internal ulong sessions_bytes;
    internal ulong workspace_bytes;
    internal ulong frames_bytes;
    internal ulong total_bytes;
    internal ulong available_bytes;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct model_info {
    internal uint struct_size;
    internal DType dtype;
    internal long parameter_count;
    internal long embedding_width;
    internal long layer_count;
    internal long attention_layer_count;
    internal long state_size;
    internal long vocab_size;
    internal long padded_vocab_size;
    internal int has_tokenizer;
    internal int end_of_text;
    internal long tokenizer_vocab_size;
    internal long max_sessions;
    internal ulong device_memory_bytes;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 32)] internal byte[] device_id;
    [MarshalAs(UnmanagedType.ByValArray, SizeConst = 256)] internal byte[] device_name;
    internal int low_priority;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct conversation_options {
    internal uint struct_size;
    internal int undo_turns;
    internal IntPtr template_path;
    internal IntPtr template_json;
    internal UIntPtr template_bytes;
    internal IntPtr system_text;
    internal UIntPtr system_bytes;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct conversation_info {
    internal uint struct_size;
    internal int turn_is_open;
    internal long turn_count;
    internal long undo_count;
    internal long tokens_read;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct logit_bias {
    internal int token;
    internal float bias;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct sampling_options {
    internal uint struct_size;
    internal int padded_vocabulary;
    internal double temperature;
    internal long top_k;
    internal double top_p;
    internal double min_p;
    internal double repetition_penalty;
    internal double presence_penalty;
    internal double frequency_penalty;
    internal ulong seed;
    internal long vocabulary_limit;
    internal IntPtr logit_bias;
    internal UIntPtr logit_bias_count;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct generate_options {
    internal uint struct_size;
    internal int ignore_end_of_text;
    internal long max_tokens;
    internal IntPtr stop_strings;
    internal UIntPtr stop_string_count;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct generate_result {
    internal uint struct_size;
    internal StopReason stop_reason;
    internal long token_count;
    internal double seconds;
  }

  [StructLayout(LayoutKind.Sequential)]
  internal struct poll_result {
    internal uint struct_size;
    internal int running;
    internal StopReason stop_reason;
    internal int frames_in_flight;
    internal long token_count;
    internal double expected_us;
    internal double measured_us;
    internal long tokens_to_read;
  }

  // --------------------------------------------------------------------------------------------------- callbacks

  [UnmanagedFunctionPointer(cdecl)]
  internal delegate int progress_callback(IntPtr user, ulong done, ulong total);
  [UnmanagedFunctionPointer(cdecl)]
  internal delegate int token_callback(IntPtr user, int token, IntPtr text, UIntPtr text_bytes);
  [UnmanagedFunctionPointer(cdecl)]
  internal delegate void log_callback(IntPtr user, LogLevel level, IntPtr message);

  // --------------------------------------------------------------------------------------------------- functions

  [DllImport(library, CallingConvention = cdecl)]
  internal static extern IntPtr riverhorse_version();
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern uint riverhorse_abi_version();
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern IntPtr riverhorse_status_name(Status status);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern IntPtr riverhorse_last_error();
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern void riverhorse_set_log_callback(log_callback callback, IntPtr user);

  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_list_devices(out IntPtr list);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern void riverhorse_device_list_free(IntPtr list);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern UIntPtr riverhorse_device_list_count(IntPtr list);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_device_list_get(IntPtr list, UIntPtr index, ref device_info info);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern UIntPtr riverhorse_device_list_absent_count(IntPtr list);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_device_list_get_absent(IntPtr list, UIntPtr index, out IntPtr backend,
                                                                  out IntPtr reason);

  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_model_load(IntPtr path, ref model_options options, out ModelHandle model);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_model_load_memory([In] model_file[] files, UIntPtr count,
                                                             ref model_options options, out ModelHandle model);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern void riverhorse_model_free(IntPtr model);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_model_estimate_memory(IntPtr path, ref model_options options,
                                                                 ref memory_estimate estimate);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_model_get_info(ModelHandle model, ref model_info info);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_model_encode(ModelHandle model, [In] byte[] text, UIntPtr text_bytes,
                                                        int special, [Out] int[] ids, UIntPtr capacity,
                                                        out UIntPtr count);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_model_decode(ModelHandle model, [In] int[] ids, UIntPtr count,
                                                        [Out] byte[] text, UIntPtr capacity, out UIntPtr text_bytes);

  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_create(ModelHandle model, ref sampling_options sampling,
                                                          out SessionHandle session);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern void riverhorse_session_free(IntPtr session);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_set_sampling(SessionHandle session, ref sampling_options sampling);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_append(SessionHandle session, [In] int[] ids, UIntPtr count,
                                                          progress_callback progress, IntPtr progress_user);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_step(SessionHandle session, out int token);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_sessions_step([In] IntPtr[] sessions, UIntPtr count, [Out] int[] tokens);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_generate(SessionHandle session, ref generate_options options,
                                                            token_callback callback, IntPtr user,
                                                            ref generate_result result);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_poll(SessionHandle session, token_callback callback, IntPtr user,
                                                        ref poll_result result);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_start_async(SessionHandle session, [In] int[] ids, UIntPtr count,
                                                               ref generate_options options, token_callback callback,
                                                               IntPtr user);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_cancel(SessionHandle session);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern long riverhorse_session_position(SessionHandle session);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_get_tokens(SessionHandle session, [Out] int[] ids, UIntPtr capacity,
                                                              out UIntPtr count);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_get_logits(SessionHandle session, [Out] float[] logits,
                                                              UIntPtr capacity, out UIntPtr count);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_clone(SessionHandle session, out SessionHandle copy);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_checkpoint(SessionHandle session);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_rewind(SessionHandle session, long position,
                                                          out long tokens_read_again);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_clear(SessionHandle session);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_save(SessionHandle session, IntPtr path);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_load(SessionHandle session, IntPtr path, out long tokens_reused);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_save_memory(SessionHandle session, [Out] byte[] data,
                                                               UIntPtr capacity, out UIntPtr size);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_session_load_memory(SessionHandle session, [In] byte[] data, UIntPtr size,
                                                               out long tokens_reused);

  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_create(ModelHandle model, ref conversation_options options,
                                                                ref sampling_options sampling,
                                                                out ConversationHandle conversation);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern void riverhorse_conversation_free(IntPtr conversation);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern IntPtr riverhorse_conversation_get_session(ConversationHandle conversation);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_begin_turn(ConversationHandle conversation, [In] byte[] text,
                                                                  UIntPtr text_bytes);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_get_prompt(ConversationHandle conversation, [Out] int[] ids,
                                                                  UIntPtr capacity, out UIntPtr count);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_get_generate_options(ConversationHandle conversation,
                                                                            ref generate_options options);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_reply(ConversationHandle conversation, long max_tokens,
                                                             token_callback callback, IntPtr user,
                                                             ref generate_result result);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_end_turn(ConversationHandle conversation);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_undo(ConversationHandle conversation, long turns);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_regenerate(ConversationHandle conversation,
                                                                  [In] sampling_options[] sampling);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_get_info(ConversationHandle conversation,
                                                                ref conversation_info info);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_get_user_text(ConversationHandle conversation, long turn,
                                                                     [Out] byte[] text, UIntPtr capacity,
                                                                     out UIntPtr text_bytes);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_get_reply(ConversationHandle conversation, long turn,
                                                                 [Out] byte[] text, UIntPtr capacity,
                                                                 out UIntPtr text_bytes);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_save_memory(ConversationHandle conversation, [Out] byte[] data,
                                                                   UIntPtr capacity, out UIntPtr size);
  [DllImport(library, CallingConvention = cdecl)]
  internal static extern Status riverhorse_conversation_load_memory(ConversationHandle conversation, [In] byte[] data,
                                                                   UIntPtr size);

  // ----------------------------------------------------------------------------------------------------- helpers

  internal static void CheckAbi() {
    uint abi = riverhorse_abi_version();
    if (abi != AbiVersion) {
      throw new NotSupportedException(library + " has the ABI " + abi + ", these files are for " + AbiVersion);
    }
  }

  internal static void Check(Status status) {
    if (status == Status.Ok) return;
    string message = Text(riverhorse_last_error());
    throw new RiverhorseException(status, message != "" ? message : Text(riverhorse_status_name(status)));
  }

  internal static uint SizeOf<T>() { return (uint)Marshal.SizeOf(typeof(T)); }

  internal static UIntPtr Size(Array array) { return new UIntPtr((ulong)array.LongLength); }

  internal static string Text(IntPtr text, int size) {
    var bytes = new byte[size];
    Marshal.Copy(text, bytes, 0, size);
    return Encoding.UTF8.GetString(bytes);
  }

  internal static string Text(IntPtr text) {
    int size = 0;
    while (Marshal.ReadByte(text, size) != 0) ++size;
    return Text(text, size);
  }

  internal static string Text(byte[] text) {
    int end = Array.IndexOf<byte>(text, 0);
    return Encoding.UTF8.GetString(text, 0, end < 0 ? text.Length : end);
  }

  internal delegate Status Fill<T>(T[] values, UIntPtr capacity, out UIntPtr count);

  /// <summary>What a function gives that fills an array and returns how many elements there are.</summary>
  internal static T[] Filled<T>(Fill<T> fill) {
    UIntPtr count;
    Check(fill(null, UIntPtr.Zero, out count));
    var values = new T[checked((int)(ulong)count)];
    Check(fill(values, count, out count));
    return values;
  }
}

sealed class ModelHandle : SafeHandleZeroOrMinusOneIsInvalid {
  ModelHandle() : base(true) {}

  protected override bool ReleaseHandle() {
    Native.riverhorse_model_free(handle);
    return true;
  }
}

sealed class SessionHandle : SafeHandleZeroOrMinusOneIsInvalid {
  readonly ConversationHandle owner;

  SessionHandle() : base(true) {}
  /// <summary>Of a conversation, which frees it, and which it keeps.</summary>
  internal SessionHandle(ConversationHandle owner) : base(true) {
    bool added = false;
    owner.DangerousAddRef(ref added);
    this.owner = owner;
    SetHandle(Native.riverhorse_conversation_get_session(owner));
  }

  protected override bool ReleaseHandle() {
    if (owner != null) {
      owner.DangerousRelease();
    } else {
      Native.riverhorse_session_free(handle);
    }
    return true;
  }
}

sealed class ConversationHandle : SafeHandleZeroOrMinusOneIsInvalid {
  ConversationHandle() : base(true) {}

  protected override bool ReleaseHandle() {
    Native.riverhorse_conversation_free(handle);
    return true;
  }
}

/// <summary>Compilers that compile ahead of time know by this name what C may call.</summary>
[AttributeUsage(AttributeTargets.Method)]
sealed class MonoPInvokeCallbackAttribute : Attribute {
  internal MonoPInvokeCallbackAttribute(Type type) {}
}

/// <summary>Texts and arrays that C sees during a call.</summary>
class Scope : IDisposable {
  readonly List<GCHandle> pinned = new List<GCHandle>();

  internal IntPtr Pin(Array array) {
    var handle = GCHandle.Alloc(array, GCHandleType.Pinned);
    pinned.Add(handle);
    return handle.AddrOfPinnedObject();
  }

  /// <summary>Zero-terminated UTF-8; null for null.</summary>
  internal IntPtr Text(string text) {
    if (text == null) return IntPtr.Zero;
    if (text.IndexOf('\0') >= 0) throw new ArgumentException("a text with a zero character in it");
    return Pin(Encoding.UTF8.GetBytes(text + '\0'));
  }

  public void Dispose() {
    foreach (var handle in pinned) handle.Free();
    pinned.Clear();
  }
}

/// <summary>Carries the functions of a call through C, and what they throw back out.</summary>
sealed class Carrier : IDisposable {
  internal static readonly Native.progress_callback OnProgress = Progressed;
  internal static readonly Native.token_callback OnToken = Drawn;
  internal ProgressFunction Progress;
  internal TokenFunction Token;
  ExceptionDispatchInfo thrown;
  GCHandle self;

  internal Carrier() { self = GCHandle.Alloc(this); }

  public void Dispose() { self.Free(); }

  internal IntPtr User {
    get { return GCHandle.ToIntPtr(self); }
  }

  internal void Check(Status status) {
    if (thrown != null) thrown.Throw();
    Native.Check(status);
  }

  int Call(Func<bool> function) {
    try {
      return function() ? 0 : 1;
    } catch (Exception exception) {
      thrown = ExceptionDispatchInfo.Capture(exception);
      return 1;
    }
  }

  [MonoPInvokeCallback(typeof(Native.progress_callback))]
  static int Progressed(IntPtr user, ulong done, ulong total) {
    var carrier = (Carrier)GCHandle.FromIntPtr(user).Target;
    return carrier.Call(() => carrier.Progress(done, total));
  }

  [MonoPInvokeCallback(typeof(Native.token_callback))]
  static int Drawn(IntPtr user, int token, IntPtr text, UIntPtr text_bytes) {
    var carrier = (Carrier)GCHandle.FromIntPtr(user).Target;
    return carrier.Call(() => carrier.Token(token, Native.Text(text, checked((int)(ulong)text_bytes))));
  }
}
}
