// Input: what the node holds, then messages and events, each a few bytes; any bytes mean something.

#include "pipeline_world.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr int kEvents = 400;  // keeps an input below the time bound
  mesh::fuzz::Script script({data, size});
  mesh::fuzz::PipelineWorld world(script.next(4));
  for (int i = 0; i < kEvents && script.more(); ++i) world.play(script);
  world.finish();
  return 0;
}
