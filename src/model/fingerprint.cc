#include "model/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/random.h"
#include "model/config.h"
#include "model/weights.h"

namespace mesh::model {
namespace {

// Spots of one small tensor lie so close that reading it whole is cheaper.
constexpr std::uint64_t kReadWholeBytes = 16u << 10;

Result<void> hash_spots(Hasher& hasher, const formats::TensorSource& source,
                        const tensor::TensorInfo& info, std::uint32_t spots) {
  const std::uint64_t bytes = info.bytes();
  if (bytes == 0) return {};
  const std::uint64_t spot_bytes = std::min(kSpotBytes, bytes);
  std::vector<std::byte> whole;
  if (bytes <= kReadWholeBytes) {
    whole.resize(static_cast<std::size_t>(bytes));
    MESH_RETURN_IF_ERROR(source.read_part(info.name, 0, whole));
  }
  std::array<std::byte, kSpotBytes> spot{};
  for (std::uint32_t i = 0; i < spots; ++i) {
    const std::uint64_t offset = spot_offset(bytes, i * (kSpotsPerTensor - 1) / (spots - 1));
    std::span<std::byte> part = std::span(spot).first(static_cast<std::size_t>(spot_bytes));
    if (whole.empty()) {
      MESH_RETURN_IF_ERROR(source.read_part(info.name, offset, part));
    } else {
      part = std::span(whole).subspan(static_cast<std::size_t>(offset), part.size());
    }
    hasher.update(part);
  }
  return {};
}

}  // namespace

std::string Fingerprint::text() const {
  return to_hex(value);
}

std::uint32_t spots_per_tensor(std::size_t tensors) {
  const std::size_t share = kSpotsPerModel / std::max<std::size_t>(tensors, 1);
  return static_cast<std::uint32_t>(
      std::clamp<std::size_t>(share, kSpotsPerSmallTensor, kSpotsPerTensor));
}

std::uint64_t spot_offset(std::uint64_t bytes, std::uint32_t index) {
  if (bytes <= kSpotBytes) return 0;
  // Spot i falls into the i-th of 64 equal parts, at a place that differs from tensor to tensor, so
  // that a repeated pattern in the weights does not hide between spots; first and last byte are
  // always covered.
  const std::uint64_t last = bytes - kSpotBytes;
  if (index == 0) return 0;
  if (index + 1 >= kSpotsPerTensor) return last;
  const std::uint64_t part = last / kSpotsPerTensor;
  const std::uint64_t within = part == 0 ? 0 : splitmix64(bytes * kSpotsPerTensor + index) % part;
  return last / kSpotsPerTensor * index + last % kSpotsPerTensor * index / kSpotsPerTensor + within;
}

Result<Fingerprint> fingerprint(const ModelSpec& spec, const formats::TensorSource& source) {
  MESH_ASSIGN_OR_RETURN(const TensorTable table, tensor_table(spec, source, {0, spec.layers}));
  std::vector<TensorRole> roles = table.all();
  std::sort(roles.begin(), roles.end(),
            [](const TensorRole& a, const TensorRole& b) { return a.name < b.name; });
  const std::uint32_t spots = spots_per_tensor(roles.size());
  Hasher hasher;
  hasher.update(canonical_text(spec));
  for (const TensorRole& role : roles) {
    const tensor::TensorInfo& info = *source.find(role.name);
    hasher.update(fmt::format("{} {} {}\n", info.name, tensor::dtype_name(info.dtype),
                              tensor::shape_text(info.shape)));
    MESH_RETURN_IF_ERROR(hash_spots(hasher, source, info, spots));
  }
  return Fingerprint{hasher.digest()};
}

}  // namespace mesh::model
