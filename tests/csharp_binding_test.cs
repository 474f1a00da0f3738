// The part of csharp_binding_test.py that is C#, compiled with samples/csharp.
//   csharp_binding_test.exe layout   what the binding says about riverhorse.h, a line each
//   csharp_binding_test.exe run MODEL IDS IDS_AFTER DEFAULT_MODEL TEXT IDS_AFTER_TEXT FOLDER   what it does
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;
using Riverhorse;

static class BindingTest {
  // -------------------------------------------------------------------------------------------------------- layout

  static Type Underlying(Type type) { return type.IsEnum ? Enum.GetUnderlyingType(type) : type; }

  static void PrintStruct(Type type) {
    Console.WriteLine("struct {0} {1}", type.Name, Marshal.SizeOf(type));
    foreach (var field in type.GetFields(BindingFlags.Instance | BindingFlags.NonPublic)) {
      var kind = Underlying(field.FieldType);
      var array = field.GetCustomAttribute<MarshalAsAttribute>();
      Console.WriteLine("member {0} {1} {2} {3} {4} {5}", type.Name, field.Name, Marshal.OffsetOf(type, field.Name),
                        array != null ? array.SizeConst : Marshal.SizeOf(kind), kind.Name,
                        field.FieldType.IsEnum ? field.FieldType.Name : "-");
    }
  }

  static void PrintLayout() {
    const BindingFlags members = BindingFlags.Static | BindingFlags.NonPublic;
    Console.WriteLine("abi {0}", Native.AbiVersion);
    foreach (var type in typeof(Native).GetNestedTypes(BindingFlags.NonPublic)) {
      if (type.IsValueType) PrintStruct(type);
    }
    foreach (var type in typeof(Native).Assembly.GetTypes().Where(type => type.IsEnum)) {
      foreach (var value in Enum.GetValues(type)) Console.WriteLine("value {0} {1} {2}", type.Name, value, (int)value);
    }
    foreach (var method in typeof(Native).GetMethods(members)) {
      var import = method.GetCustomAttribute<DllImportAttribute>();
      if (import == null) continue;
      Console.WriteLine("function {0} {1} {2} {3}", method.Name, import.CallingConvention, method.ReturnType.Name,
                        string.Join(" ", method.GetParameters().Select(each => each.ParameterType.Name)));
    }
  }

  // --------------------------------------------------------------------------------------------------------- checks

  static void Equal<T>(T given, T expected, string what) {
    if (!EqualityComparer<T>.Default.Equals(given, expected)) {
      throw new Exception(what + " is " + given + " instead of " + expected);
    }
  }

  static void Same<T>(IEnumerable<T> given, IEnumerable<T> expected, string what) {
    Equal(string.Join(",", given), string.Join(",", expected), what);
  }

  static void Has(string text, string part, string what) {
    if (!text.Contains(part)) throw new Exception(what + " has no " + part + ": " + text);
  }

  static T Throws<T>(Action action, string what) where T : Exception {
    try {
      action();
    } catch (T exception) {
      return exception;
    }
    throw new Exception(what + " throws no " + typeof(T).Name);
  }

  static RiverhorseException Fails(Status status, Action action, string what) {
    var exception = Throws<RiverhorseException>(action, what);
    Equal(exception.Status, status, "the status of " + what + " (" + exception.Message + ")");
    return exception;
  }

  static int[] Ids(string text) { return text.Split(',').Select(each => int.Parse(each)).ToArray(); }

  static ModelOptions Cpu() {
    return new ModelOptions { Backend = "cpu", CacheFolder = "none", MaxSessions = 2, PrefillPieceTokens = 8 };
  }

  // -------------------------------------------------------------------------------------------------------- tokens

  static void TestTokens(string path, int[] prompt, int[] expected, string folder) {
    ulong last = 0, all = 0;
    var options = Cpu();
    options.Progress = (done, total) => {
      last = done;
      all = total;
      return true;
    };
    using (var model = new Model(path, options))
    using (var session = model.CreateSession()) {
      Equal(all > 0 && last == all, true, "loading tells its progress");
      Equal(model.Info.DeviceId, "cpu:0", "the device");
      Equal(model.Info.MaxSessions, 2, "max_sessions");
      session.Append(prompt);
      var logits = session.GetLogits();
      Equal((long)logits.Length, model.Info.PaddedVocabSize, "the number of logits");
      Equal(Array.IndexOf(logits, logits.Max()), expected[0], "the largest logit's token");
      session.Checkpoint();
      Same(expected.Select(_ => session.Step()), expected, "tokens step by step");
      Same(session.GetTokens(), prompt.Concat(expected), "all tokens");
      Equal(session.Rewind(prompt.Length), 0, "tokens read again by a rewind to a checkpoint");
      Equal(session.Position, prompt.Length, "the position after a rewind");

      using (var copy = session.Clone()) {
        Same(Session.Step(session, copy), new[] { expected[0], expected[0] }, "one token of two sessions");
        Fails(Status.OutOfMemory, () => model.CreateSession(), "a third session");
      }
      var bytes = session.SaveBytes();
      var file = Path.Combine(folder, "Gespräch ☃.session");
      session.Save(file);
      session.Clear();
      Equal(session.Position, 0, "the position after clearing");
      Equal(session.Load(file), prompt.Length + 1, "tokens of a saved session");
      Same(bytes, File.ReadAllBytes(file), "a session saved to memory");
      Equal(session.Step(), expected[1], "the token after loading");
      Equal(session.LoadBytes(bytes), prompt.Length + 1, "tokens of bytes");
      Equal(session.Step(), expected[1], "the token after loading bytes");

      session.SetSampling(new SamplingOptions { LogitBias = new Dictionary<int, float> { { 7, 1000 } } });
      Equal(session.Step(), 7, "a token with a large bias");
      Fails(Status.InvalidArgument, () => session.SetSampling(new SamplingOptions { Temperature = -1 }),
            "a negative temperature");
      Fails(Status.InvalidArgument, () => session.Append(new[] { -1 }), "a negative id");

      session.Clear();
      int calls = 0;
      Fails(Status.Cancelled, () => session.Append(prompt, (done, total) => ++calls < 0), "an append that is cancelled");
      Equal(calls, 1, "calls until then");
    }
    var memory = new[] { "config.json", "model.pt" }.ToDictionary(each => each,
                                                                  each => File.ReadAllBytes(Path.Combine(path, each)));
    using (var model = new Model(memory, Cpu()))
    using (var session = model.CreateSession()) {
      session.Append(prompt);
      Equal(session.Step(), expected[0], "the first token of a model from memory");
    }
    memory.Remove("config.json");
    Has(Fails(Status.NotFound, () => new Model(memory, Cpu()), "a missing file").Message, "config.json", "the message");
  }

  [MethodImpl(MethodImplOptions.NoInlining)]
  static void Forget(Model model) { model.CreateSession(); }

  static void TestLifetimes(string path) {
    var model = new Model(path, Cpu());
    for (int i = 0; i < 3; ++i) {  // of the two that there may be at once
      using (model.CreateSession()) {
      }
    }
    for (int i = 0; i < 6; ++i) {
      var thread = new Thread(() => Forget(model));  // whose stack nobody searches for references afterwards
      thread.Start();
      thread.Join();
      GC.Collect();
      GC.WaitForPendingFinalizers();
    }
    var session = model.CreateSession();
    model.Dispose();
    model.Dispose();
    Throws<ObjectDisposedException>(() => model.CreateSession(), "a disposed model");
    session.Append(new[] { 1, 2, 3 });  // it keeps its model
    session.Dispose();
    Throws<ObjectDisposedException>(() => session.Step(), "a disposed session");
  }

  // ---------------------------------------------------------------------------------------------------------- texts

  static void TestTexts(string folder, string prompt, int[] expected) {
    using (var model = new Model(folder, Cpu()))
    using (var session = model.CreateSession()) {
      const string text = "Grüße, ☃ 𝄞!";
      Equal(model.Decode(model.Encode(text)), text, "a text to tokens and back");
      Equal(model.Encode("").Length, 0, "tokens of an empty text");
      Equal(model.Encode("<|endoftext|>", true).Single(), model.Info.EndOfText, "the token of <|endoftext|>");
      Equal(model.Encode("<|endoftext|>").Length > 1, true, "without it being special");

      session.Append(prompt);
      var tokens = new List<int>();
      var pieces = new StringBuilder();
      var options = new GenerateOptions { MaxTokens = expected.Length, IgnoreEndOfText = true };
      using (var other = session.Clone()) {
        var result = other.Generate(options, (token, piece) => {
          if (token >= 0) tokens.Add(token);
          pieces.Append(piece);
          return true;
        });
        Same(tokens, expected, "the default model's tokens");
        Equal(pieces.ToString(), model.Decode(expected), "its text");
        Equal(result.TokenCount, expected.Length, "the number of tokens");
        Equal(result.StopReason, StopReason.MaxTokens, "why it stopped");
        Equal(result.Seconds > 0, true, "it took time");
        Equal(other.GetText(), prompt + pieces, "the whole text");
      }
      using (var other = session.Clone()) {
        string stopped = "";
        options.StopStrings = new[] { "☃", " over" };
        Equal(other.Generate(options, piece => stopped += piece).StopReason, StopReason.String, "a stop string");
        Equal(stopped, pieces.ToString().Substring(0, pieces.ToString().IndexOf(" over")), "the text before it");
        options.StopStrings = null;
      }
      using (var other = session.Clone()) {
        Equal(other.Generate(options, (token, piece) => false).StopReason, StopReason.Callback, "a callback that stops");
        Equal(other.Position, session.Position + 1, "the position then");
        TokenFunction bad = (token, piece) => { throw new FormatException("of the callback's own"); };
        Equal(Throws<FormatException>(() => other.Generate(options, bad), "a callback that throws").Message,
              "of the callback's own", "its message");
        Has(Fails(Status.InvalidArgument, () => other.Generate(options, piece => other.Step()),
                  "a step within a callback").Message, "callback", "the message");
      }
      using (var other = session.Clone()) {
        var polled = new StringBuilder();
        other.Start(new int[0], options);
        Fails(Status.InvalidArgument, () => other.Step(), "a step meanwhile");
        PollResult state;
        do {
          state = other.Poll((token, piece) => {
            polled.Append(piece);
            return true;
          });
          Thread.Sleep(1);
        } while (state.Running);
        Equal(polled.ToString(), pieces.ToString(), "the text of a generation on the library's thread");
        Equal(state.TokenCount, expected.Length, "its number of tokens");
        Equal(state.StopReason, StopReason.MaxTokens, "why it stopped");
        other.Start(" And", new GenerateOptions { MaxTokens = 1000000 });
        other.Cancel();
        while ((state = other.Poll(null)).Running) Thread.Sleep(1);
        Equal(state.StopReason, StopReason.Cancelled, "why a cancelled one stopped");
      }
    }
  }

  // -------------------------------------------------------------------------------------------------- library, errors

  [MethodImpl(MethodImplOptions.NoInlining)]
  static Session SessionOfAConversation(Model model, string form) {
    return new Conversation(model, form, "A river.").Session;
  }

  static void TestConversations(string folder) {
    const string form = @"{""system"": {""prefix"": """", ""suffix"": ""\n""}, ""user"": {""prefix"": ""Guest: "",
        ""suffix"": ""\n""}, ""assistant"": {""prefix"": ""Host:"", ""suffix"": ""\n""}, ""stop"": [""\nGuest:"", ""\nHost:""],
        ""end_of_text"": false}";
    using (var model = new Model(folder, Cpu())) {
      Has(Fails(Status.BadFile, () => new Conversation(model, "{}"), "an empty template").Message, "the template", "it");
      using (var talk = new Conversation(model, form, "A river.", new SamplingOptions { Temperature = 0.8, Seed = 2 }))
      using (var plain = model.CreateSession(new SamplingOptions { Temperature = 0.8, Seed = 2 })) {
        string said = "";
        var result = talk.Say("Ist er tief, ☃?", 8, text => said += text);
        plain.Append("A river.\nGuest: Ist er tief, ☃?\nHost:");
        var options = new GenerateOptions { MaxTokens = 8, IgnoreEndOfText = true, StopStrings = new[] { "\nGuest:", "\nHost:" } };
        string same = "";
        Equal(plain.Generate(options, text => same += text).TokenCount, result.TokenCount, "tokens of a reply");
        Equal(said, same, "the reply");
        Equal(talk.GetReply(0), said, "the reply of turn 0");
        Equal(talk.GetUserText(0), "Ist er tief, ☃?", "what was said in turn 0");
        Equal(talk.Info.TurnCount + talk.Info.UndoCount, 2, "turns and those that can be taken back");
        Equal(talk.Info.TokensRead, talk.Session.Position - result.TokenCount, "tokens that were read");
        var saved = talk.SaveBytes();

        talk.BeginTurn("And how far?");
        Equal(talk.Info.TurnIsOpen, true, "a turn that has begun");
        var given = talk.GetGenerateOptions();
        Same(given.StopStrings, options.StopStrings, "the template's stop strings");
        Equal(given.IgnoreEndOfText, true, "what the template says of the end of text");
        given.MaxTokens = 8;
        talk.Session.Start(talk.GetPrompt(), given);
        string polled = "";
        while (talk.Session.Poll((token, text) => { polled += text; return true; }).Running) Thread.Sleep(1);
        talk.EndTurn();
        Equal(talk.GetReply(1), polled, "the reply that was polled");
        talk.Regenerate();
        talk.Reply(8);
        Equal(talk.GetReply(1), polled, "the reply drawn again");
        talk.Regenerate(new SamplingOptions { Temperature = 3, Seed = 7 });
        Throws<FormatException>(() => talk.Reply(8, (token, text) => { throw new FormatException("in C"); }), "a reply");
        talk.Undo(talk.Info.UndoCount);
        Equal(talk.Info.TurnCount, 0, "turns after undoing all");
        Fails(Status.InvalidArgument, () => talk.GetReply(0), "a reply that was taken back");
        talk.LoadBytes(saved);
        Equal(talk.GetReply(0), said, "the reply of turn 0 after loading");
        saved[saved.Length / 2] ^= 1;
        Fails(Status.BadFile, () => talk.LoadBytes(saved), "a damaged conversation");
      }
      var kept = SessionOfAConversation(model, form);
      GC.Collect();
      GC.WaitForPendingFinalizers();
      Equal(kept.Position > 0, true, "a session keeps its conversation");
      kept.Append("Still here.");
      kept.Dispose();
    }
  }

  static void TestLibrary(string path, string folder) {
    var devices = Library.ListDevices();
    var cpu = devices.Present.Single(each => each.Id == "cpu:0");
    Equal(cpu.Backend, "cpu", "the backend of cpu:0");
    Equal(cpu.MemoryTotalBytes >= cpu.MemoryFreeBytes && cpu.MemoryFreeBytes > 0, true, "it has memory");
    Equal(devices.Present.Count(each => each.IsDefault), 1, "the number of default devices");
    Same(devices.Present.Select(each => each.Backend).Concat(devices.Absent.Keys).Distinct().OrderBy(each => each),
         new[] { "cpu", "cuda", "vulkan" }, "the backends");
    Equal(devices.Absent.Values.All(each => each.Length > 10), true, "the reasons");

    // A warning, and only while somebody listens.
    var config = Path.Combine(folder, "später ☃.json");
    File.WriteAllText(config, File.ReadAllText(Path.Combine(path, "config.json")).Insert(1, "\"later\": 1,"));
    var options = Cpu();
    options.ConfigPath = config;
    var messages = new List<string>();
    Library.SetLog((level, message) => { lock (messages) messages.Add(level + ": " + message); });
    new Model(Path.Combine(path, "model.pt"), options).Dispose();
    Library.SetLog(null);
    Same(messages, new[] { "Warning: " + config + ": unknown field \"later\" is ignored" }, "warnings");
    messages.Clear();
    new Model(Path.Combine(path, "model.pt"), options).Dispose();
    Equal(messages.Count, 0, "messages that nobody listens to");

    options = Cpu();
    options.LowPriority = true;
    options.Tuning = Tuning.Off;
    Library.SetLog((level, message) => { lock (messages) messages.Add(message); });
    using (var model = new Model(Path.Combine(path, "model.pt"), options)) {
      Equal(model.Info.LowPriority, false, "low priority on the cpu");
    }
    Library.SetLog(null);
    Has(string.Join("; ", messages), "has no queue of low priority", "the log");

    var missing = Path.Combine(folder, "nirgends ☃");
    Has(Fails(Status.NotFound, () => new Model(missing), "a missing model").Message, missing, "the message");
    Fails(Status.NotFound, () => new Model(path, new ModelOptions { Backend = "cpu", Device = "☃" }), "no device");
    options = Cpu();
    var estimate = Model.EstimateMemory(path, options);
    Equal(estimate.WeightsBytes + estimate.SessionsBytes + estimate.WorkspaceBytes, estimate.TotalBytes, "the sum");
    Equal(estimate.AvailableBytes > estimate.TotalBytes, true, "what is free");
    options.MemoryBudgetBytes = estimate.TotalBytes;
    new Model(path, options).Dispose();
    options.MemoryBudgetBytes = estimate.TotalBytes - 1;
    Fails(Status.OutOfMemory, () => new Model(path, options), "a budget of one byte less than the estimate");
    options = Cpu();
    options.Progress = (done, total) => false;
    Fails(Status.Cancelled, () => new Model(path, options), "loading that is cancelled");
    options.Progress = (done, total) => { throw new FormatException("in C"); };
    Throws<FormatException>(() => new Model(path, options), "a callback of loading that throws");
    Throws<ArgumentException>(() => new Model("a\0b"), "a path with a zero character");
  }

  static int Main(string[] arguments) {
    CultureInfo.DefaultThreadCurrentCulture = CultureInfo.InvariantCulture;
    if (arguments[0] == "layout") {
      PrintLayout();
      return 0;
    }
    string model = arguments[1], folder = arguments[7];
    int[] prompt = Ids(arguments[2]), expected = Ids(arguments[3]);
    Console.WriteLine("version {0}", Library.Version);
    TestLibrary(model, folder);
    TestTokens(model, prompt, expected, folder);
    TestLifetimes(model);
    TestTexts(arguments[4], arguments[5], Ids(arguments[6]));
    TestConversations(arguments[4]);
    Console.WriteLine("all is well");
    return 0;
  }
}
