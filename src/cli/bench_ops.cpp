// riverhorse bench ops: every case of the table at the sizes of real models.
#include "backend/op_cases.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/bench.h"

namespace riverhorse::cli {

std::vector<BenchRow> bench_ops(Device& device, const BenchOptions& options) {
  std::vector<BenchRow> rows;
  const ProgressFunction progress = progress_line("measuring operations");
  const std::vector<OpCase> cases = op_cases(CaseSet::bench);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const OpCase& op_case = cases[i];
    if (interrupted()) break;
    if (progress) progress(i, cases.size());
    if (options.dtype_given && op_case.dtype != options.dtype) continue;
    if (op_case.id().find(options.filter) == std::string::npos) continue;
    BenchRow row;
    row.name = op_case.op + "." + op_case.name;
    row.dtype = op_case.dtype;
    row.gemm_bound = op_case.op == "linear";
    try {
      const BenchResult result = run_bench(device, op_case);
      if (!result.supported) row.skipped = result.message;
      row.device_ms = result.device_ms;
      row.bytes = result.bytes;
      row.flops = result.flops;
      row.repetitions = result.repetitions;
    } catch (const Error& error) {
      if (error.code() != StatusCode::out_of_memory && error.code() != StatusCode::unsupported) throw;
      row.skipped = error.what();
    }
    rows.push_back(std::move(row));
  }
  if (progress) progress(cases.size(), cases.size());
  if (rows.empty() && !interrupted()) {
    fail(StatusCode::invalid_argument, "--filter \"{}\": no benchmark case has that in its name", options.filter);
  }
  return rows;
}

}  // namespace riverhorse::cli
