// Conversations for C#, over riverhorse/conversation.h, which has the form of a template; to be added to a project with
// Riverhorse.cs and Native.cs.
using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Riverhorse {

public sealed class ConversationInfo {
  public bool TurnIsOpen { get; internal set; }
  /// <summary>An open one included.</summary>
  public long TurnCount { get; internal set; }
  /// <summary>Of them that can be taken back.</summary>
  public long UndoCount { get; internal set; }
  /// <summary>In all, drawn ones not counted.</summary>
  public long TokensRead { get; internal set; }
}

/// <summary>Turns of a user's text and a reply over a session, in the words of a template. The history is the session's
/// state: a turn reads its own text and nothing again.</summary>
public sealed class Conversation : IDisposable {
  readonly ConversationHandle handle;
  readonly Session session;

  /// <summary>`templateJson` is the text of a template, `systemText` may be null. The last `undoTurns` turns can be
  /// taken back: 0 means 4, -1 none.</summary>
  public Conversation(Model model, string templateJson, string systemText = null, SamplingOptions sampling = null,
                      int undoTurns = 0) {
    if (model == null) throw new ArgumentNullException("model");
    if (templateJson == null) throw new ArgumentNullException("templateJson");
    using (var scope = new Scope()) {
      var form = Encoding.UTF8.GetBytes(templateJson + '\0');
      var system = systemText == null ? null : Encoding.UTF8.GetBytes(systemText + '\0');
      var options = new Native.conversation_options {
        struct_size = Native.SizeOf<Native.conversation_options>(), undo_turns = undoTurns,
        template_json = scope.Pin(form), template_bytes = (UIntPtr)(uint)(form.Length - 1),
        system_text = system == null ? IntPtr.Zero : scope.Pin(system),
        system_bytes = (UIntPtr)(uint)(system == null ? 0 : system.Length - 1)
      };
      var drawn = SamplingOptions.Raw(sampling, scope);
      Native.Check(Native.riverhorse_conversation_create(model.handle, ref options, ref drawn, out handle));
    }
    session = new Session(model, new SessionHandle(handle));
  }

  /// <summary>Ends the session, too.</summary>
  public void Dispose() {
    session.Dispose();
    handle.Dispose();
  }

  /// <summary>The conversation's own, to read a prompt, draw, set its sampling and look at; not to be disposed
  /// of.</summary>
  public Session Session {
    get { return session; }
  }

  /// <summary>A whole turn: what the user says, and the reply, whose text `onText` is given as it comes.</summary>
  public GenerateResult Say(string text, long maxTokens, Action<string> onText) {
    if (onText == null) throw new ArgumentNullException("onText");
    BeginTurn(text);
    return Reply(maxTokens, (token, piece) => {
      if (piece.Length > 0) onText(piece);
      return true;
    });
  }

  /// <summary>What the user says. Reads nothing: Reply does, or Session.Start with GetPrompt() and
  /// GetGenerateOptions(), whose end is followed by EndTurn.</summary>
  public void BeginTurn(string text) {
    var bytes = Encoding.UTF8.GetBytes(text);
    Native.Check(Native.riverhorse_conversation_begin_turn(handle, bytes, Native.Size(bytes)));
  }

  /// <summary>Reads what is not read yet of the turn, draws the reply (0: up to 128 tokens), and ends the
  /// turn.</summary>
  public GenerateResult Reply(long maxTokens = 0, TokenFunction onToken = null) {
    var result = new Native.generate_result { struct_size = Native.SizeOf<Native.generate_result>() };
    using (var carrier = new Carrier { Token = onToken }) {
      carrier.Check(Native.riverhorse_conversation_reply(handle, maxTokens, onToken == null ? null : Carrier.OnToken,
                                                         carrier.User, ref result));
    }
    return new GenerateResult { StopReason = result.stop_reason, TokenCount = result.token_count,
                                Seconds = result.seconds };
  }

  /// <summary>What the session drew after the prompt is the reply.</summary>
  public void EndTurn() { Native.Check(Native.riverhorse_conversation_end_turn(handle)); }

  /// <summary>The tokens of the open turn that come before its reply.</summary>
  public int[] GetPrompt() {
    return Native.Filled<int>((int[] ids, UIntPtr capacity, out UIntPtr count) =>
                                  Native.riverhorse_conversation_get_prompt(handle, ids, capacity, out count));
  }

  /// <summary>The template's: what ends a reply.</summary>
  public GenerateOptions GetGenerateOptions() {
    var raw = new Native.generate_options { struct_size = Native.SizeOf<Native.generate_options>() };
    Native.Check(Native.riverhorse_conversation_get_generate_options(handle, ref raw));
    var strings = new string[checked((int)(ulong)raw.stop_string_count)];
    for (int i = 0; i < strings.Length; ++i) {
      strings[i] = Native.Text(Marshal.ReadIntPtr(raw.stop_strings, i * IntPtr.Size));
    }
    GC.KeepAlive(this);  // whose strings they were
    return new GenerateOptions { StopStrings = strings, IgnoreEndOfText = raw.ignore_end_of_text != 0 };
  }

  /// <summary>Takes the last turns back, an open one included, to the last bit.</summary>
  public void Undo(long turns = 1) { Native.Check(Native.riverhorse_conversation_undo(handle, turns)); }

  /// <summary>Takes the last turn back and begins it again with the same text; Reply follows. Null: drawn as it
  /// was.</summary>
  public void Regenerate(SamplingOptions sampling = null) {
    using (var scope = new Scope()) {
      var other = sampling == null ? null : new[] { SamplingOptions.Raw(sampling, scope) };
      Native.Check(Native.riverhorse_conversation_regenerate(handle, other));
    }
  }

  public ConversationInfo Info {
    get {
      var raw = new Native.conversation_info { struct_size = Native.SizeOf<Native.conversation_info>() };
      Native.Check(Native.riverhorse_conversation_get_info(handle, ref raw));
      return new ConversationInfo { TurnIsOpen = raw.turn_is_open != 0, TurnCount = raw.turn_count,
                                    UndoCount = raw.undo_count, TokensRead = raw.tokens_read };
    }
  }

  /// <summary>What the user said in a turn; 0 is the first.</summary>
  public string GetUserText(long turn) {
    return Encoding.UTF8.GetString(Native.Filled<byte>(
        (byte[] text, UIntPtr capacity, out UIntPtr size) =>
            Native.riverhorse_conversation_get_user_text(handle, turn, text, capacity, out size)));
  }

  /// <summary>The reply of a turn; empty while it is open.</summary>
  public string GetReply(long turn) {
    return Encoding.UTF8.GetString(Native.Filled<byte>(
        (byte[] text, UIntPtr capacity, out UIntPtr size) =>
            Native.riverhorse_conversation_get_reply(handle, turn, text, capacity, out size)));
  }

  /// <summary>Everything but what can be taken back, for a saved game.</summary>
  public byte[] SaveBytes() {
    return Native.Filled<byte>((byte[] data, UIntPtr capacity, out UIntPtr size) =>
                                   Native.riverhorse_conversation_save_memory(handle, data, capacity, out size));
  }

  /// <summary>Becomes the saved conversation, of the same model.</summary>
  public void LoadBytes(byte[] data) {
    Native.Check(Native.riverhorse_conversation_load_memory(handle, data, Native.Size(data)));
  }
}
}
