// A text from a model, the same again by chance from a copy of its state, and what the model makes of the next token.
using System;
using System.Globalization;
using Riverhorse;

static class Generate {
  const string usage =
      "usage: Generate.exe MODEL PROMPT [--tokens N] [--temperature T] [--seed S] [--backend cpu|vulkan|cuda]";

  static int Main(string[] arguments) {
    long tokens = 24;
    var sampling = new SamplingOptions { Temperature = 0.8, TopK = 40, Seed = 7 };
    var options = new ModelOptions();
    bool good = arguments.Length >= 2 && arguments.Length % 2 == 0;
    for (int i = 2; good && i < arguments.Length; i += 2) {
      string value = arguments[i + 1];
      switch (arguments[i]) {
        case "--tokens": good = long.TryParse(value, out tokens) && tokens > 0; break;
        case "--temperature":
          good = double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out sampling.Temperature);
          break;
        case "--seed": good = ulong.TryParse(value, out sampling.Seed); break;
        case "--backend": options.Backend = value; break;
        default: good = false; break;
      }
    }
    if (!good) {
      Console.Error.WriteLine(usage);
      return 2;
    }
    try {
      using (var model = new Model(arguments[0], options)) Run(model, arguments[1], tokens, sampling);
      return 0;
    } catch (RiverhorseException exception) {
      Console.Error.WriteLine("Generate: " + exception.Message);
    } catch (DllNotFoundException) {
      Console.Error.WriteLine("Generate: libriverhorse.so.0 was not found: put it beside the program, or name its " +
                              "folder in LD_LIBRARY_PATH");
    }
    return 1;
  }

  static void Run(Model model, string prompt, long tokens, SamplingOptions sampling) {
    using (var session = model.CreateSession()) {
      session.Append(prompt);
      using (var other = session.Clone()) {
        var options = new GenerateOptions { MaxTokens = tokens };
        var result = session.Generate(options, text => Console.Write(text));
        Console.WriteLine();
        other.SetSampling(sampling);
        other.Generate(options, text => Console.Write(text));
        Console.WriteLine();

        var logits = session.GetLogits();
        int best = 0;
        for (int i = 1; i < model.Info.VocabSize; ++i) {
          if (logits[i] > logits[best]) best = i;
        }
        Console.Error.WriteLine("{0:F0} tokens/s on {1}; next would come \"{2}\"", result.TokenCount / result.Seconds,
                                model.Info.DeviceName, model.Decode(new[] { best }));
      }
    }
  }
}
