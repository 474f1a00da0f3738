// Several workgroups each do a part of a thing, and the last to finish goes on alone with what all of them wrote: one
// dispatch instead of two with a barrier between them. No one waits for anyone, so no workgroup has to make progress
// while another does. A counter a thing, zero before and after.
//
// Before the include: LAST_GROUP_BINDING, the binding of the counters. What the last one reads of the others must be
// in a `coherent` buffer.
layout(set = 0, binding = LAST_GROUP_BINDING, std430) coherent buffer Counters { uint counters[]; };

shared uint arrived_before;

// For all invocations of `count` workgroups: true in those of the last one to get here, which then sees what the
// others wrote before.
bool last_group(uint thing, uint count) {
  memoryBarrierBuffer();
  barrier();
  if (gl_LocalInvocationIndex == 0u) {
    arrived_before = atomicAdd(counters[thing], 1u);
    if (arrived_before == count - 1u) counters[thing] = 0u;
  }
  barrier();
  memoryBarrierBuffer();
  return arrived_before == count - 1u;
}
