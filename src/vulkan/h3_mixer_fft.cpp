#include "base/error.h"
#include "vulkan/h3_mixer.h"

namespace riverhorse::vulkan {

void record_h3_mixer_fft(VulkanEncoder&, const H3MixerArgs&, const MixerShape&) {
  fail(StatusCode::unsupported, "vulkan lacks the FFT mixer");
}

}  // namespace riverhorse::vulkan
