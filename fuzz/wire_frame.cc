// Input: a whole frame with its prefix; or, when it does not begin with the magic, a type, two
// bytes of header length, header and payload.

#include "wire/frame.h"

#include <algorithm>

#include "target.h"
#include "wire/messages.h"

namespace {

using mesh::env::Frame;

// Where the planted fault sits: a sequence that is taken up again and samples like no seed.
template <typename Message>
bool is_rare(const Message&) {
  return false;
}
template <>
bool is_rare(const mesh::wire::Open& open) {
  return open.replayed > 0 && open.sampling.top_k + open.sampling.choice > 42;
}

// What was accepted is accepted again after encoding.
template <typename Decode>
void again(const Frame& frame, Decode decode) {
  const auto message = decode(frame);
  if (!message.ok()) return;
  Frame encoded = mesh::wire::encode(*message);
  if (mesh::fuzz::planted(is_rare(*message))) encoded.type = 0;
  MESH_CHECK(mesh::wire::check_limits(encoded).ok(), "an accepted message becomes a large frame");
  const auto second = decode(encoded);
  MESH_CHECK(second.ok(), "type {}: {}", frame.type, second.error().message);
}

void decode_all(const Frame& frame) {
  again(frame, mesh::wire::decode_hello);
  again(frame, mesh::wire::decode_refuse);
  again(frame, mesh::wire::decode_heartbeat);
  again(frame, mesh::wire::decode_signed_record);
  again(frame, mesh::wire::decode_plan);
  again(frame, mesh::wire::decode_open);
  again(frame, mesh::wire::decode_open_reply);
  again(frame, mesh::wire::decode_prompt);
  for (const std::size_t row_bytes : {std::size_t{8}, std::size_t{0}})
    again(frame, [&](const Frame& step) { return mesh::wire::decode_step(step, row_bytes); });
  again(frame, mesh::wire::decode_tokens);
  again(frame, mesh::wire::decode_scores);
  again(frame, mesh::wire::decode_extend);
  again(frame, mesh::wire::decode_credit);
  again(frame, mesh::wire::decode_rows_done);
  again(frame, mesh::wire::decode_close);
  again(frame, mesh::wire::decode_fail);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = mesh::fuzz::bytes_of(data, size);
  (void)mesh::wire::decode_prefix(input.first(std::min(size, mesh::wire::kFramePrefixBytes))).ok();
  if (const auto whole = mesh::wire::decode_frame(input); whole.ok()) decode_all(*whole);
  if (size < 3) return 0;
  Frame frame;
  frame.type = data[0];
  const std::size_t header = std::min<std::size_t>(size - 3, data[1] | data[2] << 8);
  frame.header = mesh::Buffer::copy_of(input.subspan(3, header));
  frame.payload = mesh::Buffer::copy_of(input.subspan(3 + header));
  decode_all(frame);
  return 0;
}
