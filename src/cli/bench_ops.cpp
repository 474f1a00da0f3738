// riverhorse bench ops: every case of the table at the sizes of real models.
#include "backend/op_cases.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/bench.h"

namespace riverhorse::cli {

BenchRow measured_row(Device& device, const OpCase& op_case, const BenchOptions& options, const CopyMeter& copy) {
  BenchRow row;
  row.dtype = op_case.dtype;
  BenchTiming timing{.seconds = options.seconds, .before = {}};
  if (options.seconds > 0) timing.before = [&] { row.copy_bytes_per_second = copy.measure(options.seconds); };
  try {
    const BenchResult result = run_bench(device, op_case, timing);
    if (!result.supported) row.skipped = result.message;
    row.device_ms = result.device_ms;
    row.bytes = result.bytes;
    row.flops = result.flops;
    row.repetitions = result.repetitions;
    row.parts = result.parts;
  } catch (const Error& error) {
    if (error.code() != StatusCode::out_of_memory && error.code() != StatusCode::unsupported) throw;
    row.skipped = error.what();
  }
  return row;
}

std::vector<BenchRow> bench_ops(Device& device, const BenchOptions& options, const CopyMeter& copy) {
  std::vector<BenchRow> rows;
  const ProgressFunction progress = progress_line("measuring operations");
  const std::vector<OpCase> cases = op_cases(CaseSet::bench);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const OpCase& op_case = cases[i];
    if (interrupted()) break;
    if (progress) progress(i, cases.size());
    if (options.dtype_given && op_case.dtype != options.dtype) continue;
    if (op_case.id().find(options.filter) == std::string::npos) continue;
    rows.push_back(measured_row(device, op_case, options, copy));
    rows.back().name = op_case.op + "." + op_case.name;
    rows.back().gemm_bound = op_case.op == "linear";
  }
  if (progress) progress(cases.size(), cases.size());
  if (rows.empty() && !interrupted()) {
    fail(StatusCode::invalid_argument, "--filter \"{}\": no benchmark case has that in its name", options.filter);
  }
  return rows;
}

}  // namespace riverhorse::cli
