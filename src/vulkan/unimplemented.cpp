// Operations whose own files are not here yet; each line goes when its file comes.
#include "base/error.h"
#include "vulkan/encoder.h"

namespace riverhorse::vulkan {

#define RIVERHORSE_MISSING(name, args) \
  void VulkanEncoder::record_##name(const args&) { fail(StatusCode::unsupported, "vulkan lacks " #name); }
RIVERHORSE_MISSING(fft_conv, FftConvArgs)
RIVERHORSE_MISSING(sample, SampleArgs)

std::shared_ptr<FftPlans> make_fft_plans(VulkanDevice&) { fail(StatusCode::unsupported, "vulkan lacks FFT plans"); }

}  // namespace riverhorse::vulkan
