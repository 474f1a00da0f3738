#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "vulkan/encoder.h"
#include "vulkan/groups.h"

namespace riverhorse::vulkan {

void VulkanEncoder::record_embed(const EmbedArgs& args) {
  const OperationScope scope(*this, "embed");
  struct Push {
    std::uint32_t rows;
    std::uint32_t width;
    std::uint32_t vocabulary;
  };
  const Push push{static_cast<std::uint32_t>(args.ids.count()), static_cast<std::uint32_t>(args.table.shape[1]),
                  static_cast<std::uint32_t>(args.table.shape[0])};
  if (push.rows == 0) return;
  const Binding bindings[] = {{args.ids, Access::read}, {args.table, Access::read}, {args.residual, Access::write}};
  const std::uint32_t constants[] = {std::min(limits().invocations, 256u)};
  const std::string shader = fmt::format("{}.{}", is_quantised(args.table.dtype) ? "embed_quantised" : "embed",
                                         dtype_name(args.table.dtype));
  Dispatch embed{shader, constants, bindings, push_bytes(push)};
  embed.groups[0] = groups_for(push.rows, 1, limits());
  embed.cost_bytes = static_cast<double>(args.residual.size_bytes()) * 1.5;
  dispatch(embed);
}

}  // namespace riverhorse::vulkan
