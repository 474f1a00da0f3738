#include "train/layout_plan.h"

#include <algorithm>
#include <tuple>

#include "train/training_flops.h"

namespace riverhorse {
namespace {

PlannedLayout planned(const PlanOptions& options, Shard shard, Recompute recompute, int places) {
  PlannedLayout layout;
  layout.shard = shard;
  layout.recompute = recompute;
  layout.places = places;
  TrainerCoreOptions core;
  Ranks ranks;
  if (options.ranks > 1) {
    // Not the first of a sequence where there is one between others: it sends both ways.
    ranks.host = ranks.tensors = make_absent_ranks(options.ranks, places > 2 ? 1 : 0);
  }
  core.ranks = ranks.with_places(places);
  core.micro_batch = {core.ranks.part_of(options.batch.batch), core.ranks.tokens_of(options.batch.length)};
  core.dtype = options.dtype;
  core.logits = options.logits;
  core.conv = ConvAlgorithm::chunked;
  core.recompute = recompute;
  core.shard = shard;
  core.reduce_dtype = options.reduce_dtype;
  layout.memory = TrainerCore::estimate_memory(make_shapes_device(&layout.traffic), options.config, core);
  if (!options.measured) return layout;
  const double flops =
      static_cast<double>(core.micro_batch.rows()) * (training_flops_per_token(options.config, options.batch.length) +
                                                      recomputed_flops_per_token(options.config, recompute));
  const double compute = options.measured->ms * flops / options.measured->flops;
  const auto ms = [&](double bytes) { return bytes > 0 ? 1e3 * bytes / options.bandwidth : 0; };
  layout.step_ms = compute + std::max(0.0, ms(layout.traffic.summed) - compute * 2 / 3) + ms(layout.traffic.moved);
  return layout;
}

// Whether the batch divides so, and an attention layer its heads. With dropout a group has one sequence at a time.
bool divides(const PlanOptions& options, int places) {
  const ModelConfig& config = options.config;
  const bool drops = config.embed_pdrop > 0 || config.resid_pdrop > 0 || config.attn_pdrop > 0;
  if (places > 1 && drops && options.batch.batch > options.ranks / places) return false;
  const bool heads = config.attn_layer_idx.empty() || config.attn_n_head.value() % places == 0;
  return options.ranks % places == 0 && options.batch.batch % (options.ranks / places) == 0 &&
         options.batch.length % places == 0 && heads;
}

}  // namespace

std::vector<PlannedLayout> plan_layouts(const PlanOptions& options) {
  std::vector<PlannedLayout> layouts;
  for (int places = 1; places <= options.ranks; ++places) {
    if (!divides(options, places)) continue;
    for (const Shard shard : {Shard::none, Shard::optimizer, Shard::gradients}) {
      if (shard != Shard::none && options.ranks == 1) continue;
      for (const Recompute recompute : {Recompute::none, Recompute::mixer, Recompute::block}) {
        layouts.push_back(planned(options, shard, recompute, places));
      }
    }
  }
  const auto key = [](const PlannedLayout& layout) {
    return std::tuple(layout.step_ms.value_or(0), layout.memory.total_bytes(), layout.places);
  };
  std::stable_sort(layouts.begin(), layouts.end(),
                   [&](const PlannedLayout& a, const PlannedLayout& b) { return key(a) < key(b); });
  return layouts;
}

}  // namespace riverhorse
