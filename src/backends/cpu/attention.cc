#include "backends/cpu/attention.h"

#include <algorithm>

#include "backends/cpu/float_mode.h"
#include "backends/cpu/weights.h"
#include "base/check.h"

namespace mesh::backends::cpu {
namespace {

// Sequences with at most this many rows spread their segments over the threads.
constexpr std::int32_t kSplitRows = 8;

static_assert(kTile == ops::kPageTokens && kSegment == ops::kSegmentTokens);
static_assert(sizeof(PageId) == sizeof(std::uint32_t));

// One sequence of the batch as attention sees it.
struct Sequence {
  std::int32_t row = 0, rows = 0;  // in the batch
  std::int32_t segment = 0;        // first segment that holds a visible position
  std::int32_t segments = 0;       // up to the end of the cache
  std::int32_t parts = 1;          // results per (row, head): one per segment, or one for all
  std::int64_t first_part = 0;
  std::int32_t units = 0;
  const std::uint32_t* pages = nullptr;
};

struct Work {
  CpuStep& step;
  const ops::AttentionSpec& spec;
  const float* qkv;
  std::int64_t qkv_stride;
  float* out;
  int head_stride;
  int group;        // heads that share a K/V head
  int unit_heads;   // of a group in one unit
  int head_blocks;  // units per group
  int unit_rows;
  std::int64_t part_stride;
  std::int64_t scratch_stride;
  const CpuStep::Rotation* rotation;
  std::shared_ptr<void> q_memory, part_memory, scratch_memory, sequence_memory, fresh_memory;
  float* q = nullptr;
  float* parts = nullptr;
  float* scratch = nullptr;
  Sequence* sequences = nullptr;
  std::int32_t* sequence_of_row = nullptr;
  float* fresh = nullptr;

  float* scratch_of(int worker) const { return scratch + worker * scratch_stride; }
  std::int64_t part_index(const Sequence& s, std::int32_t row, int head) const {
    return s.first_part + (static_cast<std::int64_t>(row - s.row) * spec.heads + head) * s.parts;
  }
};

void lay_out(Work& w) {
  const ops::Batch& batch = w.step.batch();
  const std::size_t count = batch.sequences(), rows = batch.rows();
  w.sequence_memory = w.step.scratch(count * sizeof(Sequence) + rows * sizeof(std::int32_t));
  w.sequences = static_cast<Sequence*>(w.sequence_memory.get());
  w.sequence_of_row = reinterpret_cast<std::int32_t*>(w.sequences + count);
  std::int64_t parts = 0;
  for (std::size_t i = 0; i < count; ++i) {
    Sequence s;
    s.row = batch.row_start[i];
    s.rows = batch.row_start[i + 1] - s.row;
    if (s.rows > 0) {
      const std::int32_t first = batch.positions[static_cast<std::size_t>(s.row)];
      const std::int32_t low = w.spec.window > 0 ? std::max(0, first - w.spec.window + 1) : 0;
      s.segment = low / kSegment;
      s.segments = (batch.kv_length[i] + kSegment - 1) / kSegment - s.segment;
      s.parts = s.rows <= kSplitRows ? s.segments : 1;
      const int row_blocks = (s.rows + w.unit_rows - 1) / w.unit_rows;
      s.units = w.spec.kv_heads * w.head_blocks * row_blocks * s.parts;
    }
    s.first_part = parts;
    s.pages = &batch.pages.data()[batch.page_start[i]].value;
    parts += static_cast<std::int64_t>(s.rows) * w.spec.heads * s.parts;
    w.sequences[i] = s;
    std::fill_n(w.sequence_of_row + s.row, s.rows, static_cast<std::int32_t>(i));
  }
  const int threads = w.step.device().pool->threads();
  const std::int64_t merge_floats = kPartHeader + 2 * static_cast<std::int64_t>(w.head_stride);
  w.scratch_stride =
      std::max<std::int64_t>(static_cast<std::int64_t>(attend_scratch_floats(w.head_stride)),
                             merge_floats) +
      16;
  w.scratch_memory =
      w.step.scratch(static_cast<std::uint64_t>(w.scratch_stride * threads) * sizeof(float));
  w.scratch = static_cast<float*>(w.scratch_memory.get());
  w.part_memory = w.step.scratch(static_cast<std::uint64_t>(parts * w.part_stride) * sizeof(float));
  w.parts = static_cast<float*>(w.part_memory.get());
  w.q_memory = w.step.scratch(rows * static_cast<std::uint64_t>(w.spec.heads * w.spec.head_dim) *
                              sizeof(float));
  w.q = static_cast<float*>(w.q_memory.get());
#ifdef MESH_MUTATE_FRESH_KV
  w.fresh_memory = w.step.scratch(
      rows * static_cast<std::uint64_t>(w.spec.kv_heads * w.spec.head_dim) * sizeof(float));
  w.fresh = static_cast<float*>(w.fresh_memory.get());
#endif
}

// q to w.q; K and V, rounded to the cache's type, to their page.
void prepare_row(const Work& w, std::int64_t row, int worker) {
  const ops::AttentionSpec& spec = w.spec;
  const KernelTable& kernels = *w.step.device().kernels;
  const CpuKvPool& kv = *w.step.kv();
  const Sequence& s = w.sequences[w.sequence_of_row[row]];
  const std::int32_t position = w.step.batch().positions[static_cast<std::size_t>(row)];
  const std::size_t page_offset =
      s.pages[position / kTile] * static_cast<std::size_t>(kv.bytes_per_page());
  const int slot = position % kTile;
  const float* x = w.qkv + row * w.qkv_stride;

  HeadArgs head;
  head.head_dim = spec.head_dim;
  head.eps = spec.eps;
  if (spec.rope != nullptr) {
    head.rope_pairs = spec.rope->dims() / 2;
    head.cosines = w.rotation->cosines + row * head.rope_pairs;
    head.sines = w.rotation->sines + row * head.rope_pairs;
    head.interleaved = spec.rope->interleaved;
  }
  head.norm = spec.q_norm == nullptr ? nullptr : static_cast<const CpuVec*>(spec.q_norm)->data();
  head.scale = spec.scale;
  for (int h = 0; h < spec.heads; ++h, x += spec.head_dim) {
    head.x = x;
    head.y = w.q + (row * spec.heads + h) * spec.head_dim;
    kernels.prepare_head(head);
  }
  head.norm = spec.k_norm == nullptr ? nullptr : static_cast<const CpuVec*>(spec.k_norm)->data();
  head.scale = 1.0f;
  head.y = w.scratch_of(worker);
  for (int h = 0; h < spec.kv_heads; ++h, x += spec.head_dim) {
    head.x = x;
    kernels.prepare_head(head);
#ifdef MESH_MUTATE_FRESH_KV
    std::copy_n(head.y, spec.head_dim, w.fresh + (row * spec.kv_heads + h) * spec.head_dim);
#endif
    std::byte* page =
        kv.head(static_cast<std::uint32_t>(spec.layer), static_cast<std::uint32_t>(h)) +
        page_offset;
    kernels.store_k(head.y, spec.head_dim, slot, page, kv.element());
    kernels.store_v(x + static_cast<std::int64_t>(spec.kv_heads) * spec.head_dim, spec.head_dim,
                    kv.head_stride(), slot, page + kv.v_offset(), kv.element());
  }
}

// Unit `unit` of a sequence: K/V head, block of its heads, block of rows, segment (or all).
void attend_unit(const Work& w, const Sequence& s, std::int32_t unit, int worker) {
  const CpuKvPool& kv = *w.step.kv();
  const std::int32_t segment = unit % s.parts;
  unit /= s.parts;
  const int row_blocks = (s.rows + w.unit_rows - 1) / w.unit_rows;
  const std::int32_t row_begin = s.row + unit % row_blocks * w.unit_rows;
  const std::int32_t row_end = std::min(row_begin + w.unit_rows, s.row + s.rows);
  unit /= row_blocks;
  const int kv_head = unit / w.head_blocks;
  const int head_begin = kv_head * w.group + unit % w.head_blocks * w.unit_heads;
  const int head_end = std::min(head_begin + w.unit_heads, (kv_head + 1) * w.group);

  AttendArgs a;
  a.cache = kv.head(static_cast<std::uint32_t>(w.spec.layer), static_cast<std::uint32_t>(kv_head));
  a.page_bytes = kv.bytes_per_page();
  a.v_offset = kv.v_offset();
  a.pages = s.pages;
  a.element = kv.element();
  a.head_dim = w.spec.head_dim;
  a.head_stride = w.head_stride;
  a.window = w.spec.window;
  a.scratch = w.scratch_of(worker);
  a.segment_begin = s.segment + (s.parts > 1 ? segment : 0);
  a.segment_end = s.parts > 1 ? a.segment_begin + 1 : s.segment + s.segments;
  for (std::int32_t row = row_begin; row < row_end; ++row)
    for (int head = head_begin; head < head_end; ++head) {
      a.q[a.queries] =
          w.q + (static_cast<std::int64_t>(row) * w.spec.heads + head) * w.spec.head_dim;
      a.position[a.queries] = w.step.batch().positions[static_cast<std::size_t>(row)];
      a.part[a.queries] = w.parts + (w.part_index(s, row, head) + segment) * w.part_stride;
      ++a.queries;
    }
#ifdef MESH_MUTATE_FRESH_KV
  a.fresh_k =
      w.fresh + (static_cast<std::int64_t>(s.row) * w.spec.kv_heads + kv_head) * w.spec.head_dim;
  a.fresh_stride = static_cast<std::int64_t>(w.spec.kv_heads) * w.spec.head_dim;
  a.fresh_begin = w.step.batch().positions[static_cast<std::size_t>(s.row)];
  a.fresh_end = a.fresh_begin + s.rows;
#endif
  w.step.device().kernels->attend(a);
}

void merge_row(const Work& w, std::int64_t row, int worker) {
  const ops::AttentionSpec& spec = w.spec;
  const Sequence& s = w.sequences[w.sequence_of_row[row]];
  const float* sinks =
      spec.sinks == nullptr ? nullptr : static_cast<const CpuVec*>(spec.sinks)->data();
  for (int head = 0; head < spec.heads; ++head) {
    const float* parts =
        w.parts + w.part_index(s, static_cast<std::int32_t>(row), head) * w.part_stride;
    w.step.device().kernels->merge(
        parts, s.parts, w.part_stride, sinks == nullptr ? nullptr : sinks + head, spec.head_dim,
        w.head_stride, w.scratch_of(worker), w.out + (row * spec.heads + head) * spec.head_dim);
  }
}

Kernel attention_kernel(KvElement element) {
  switch (element) {
    case KvElement::kF32:
      return Kernel::kAttentionF32;
    case KvElement::kBF16:
      return Kernel::kAttentionBF16;
    case KvElement::kI8:
      break;
  }
  return Kernel::kAttentionI8;
}

void check_shapes(const CpuStep& step, const ops::AttentionSpec& spec, const ops::Tensor& qkv) {
  const CpuKvPool* kv = step.kv();
  MESH_CHECK(kv != nullptr, "attention without a KV pool");
  const ops::KvLayout& layout = kv->layout();
  MESH_CHECK(spec.layer >= 0 && static_cast<std::uint32_t>(spec.layer) < layout.layers,
             "layer {} of {}", spec.layer, layout.layers);
  MESH_CHECK(static_cast<std::uint32_t>(spec.kv_heads) == layout.kv_heads &&
                 static_cast<std::uint32_t>(spec.head_dim) == layout.head_dim,
             "{} heads of {} against a cache of {} heads of {}", spec.kv_heads, spec.head_dim,
             layout.kv_heads, layout.head_dim);
  MESH_CHECK(spec.heads > 0 && spec.heads % spec.kv_heads == 0, "{} heads over {}", spec.heads,
             spec.kv_heads);
  const std::int64_t cols =
      (static_cast<std::int64_t>(spec.heads) + 2 * spec.kv_heads) * spec.head_dim;
  MESH_CHECK(qkv.dtype == ops::DType::kF32 && qkv.cols == cols &&
                 qkv.rows == static_cast<std::int64_t>(step.batch().rows()),
             "qkv of [{}, {}], [{}, {}] is wanted", qkv.rows, qkv.cols, step.batch().rows(), cols);
  MESH_CHECK(spec.rope == nullptr || spec.rope->dims() <= spec.head_dim, "{} rotated of {}",
             spec.rope->dims(), spec.head_dim);
  MESH_CHECK(spec.q_norm == nullptr || spec.q_norm->size() == spec.head_dim, "q norm of {}",
             spec.q_norm->size());
  MESH_CHECK(spec.k_norm == nullptr || spec.k_norm->size() == spec.head_dim, "k norm of {}",
             spec.k_norm->size());
  MESH_CHECK(spec.sinks == nullptr || spec.sinks->size() == spec.heads, "{} sinks",
             spec.sinks->size());
}

}  // namespace

ops::Tensor run_attention(CpuStep& step, const ops::AttentionSpec& spec, const ops::Tensor& qkv) {
  check_shapes(step, spec, qkv);
  const Device& device = step.device();
  ops::Tensor out =
      step.make(ops::DType::kF32, qkv.rows, static_cast<std::int64_t>(spec.heads) * spec.head_dim);
  const int head_stride = step.kv()->head_stride();
  const int group = spec.heads / spec.kv_heads;
  const int unit_heads = std::min(group, kMaxQueries);
  Work w{.step = step,
         .spec = spec,
         .qkv = static_cast<const float*>(qkv.data),
         .qkv_stride = qkv.cols,
         .out = static_cast<float*>(out.data),
         .head_stride = head_stride,
         .group = group,
         .unit_heads = unit_heads,
         .head_blocks = (group + unit_heads - 1) / unit_heads,
         .unit_rows = std::max(1, kMaxQueries / unit_heads),
         .part_stride = kPartHeader + head_stride,
         .scratch_stride = 0,
         .rotation = spec.rope == nullptr ? nullptr : &step.rotation(*spec.rope),
         .q_memory = {},
         .part_memory = {},
         .scratch_memory = {},
         .sequence_memory = {},
         .fresh_memory = {}};
  lay_out(w);
  device.uses->note(Kernel::kAttentionPrepare);
  device.uses->note(attention_kernel(step.kv()->element()));
  device.uses->note(Kernel::kAttentionMerge);
  for_range(*device.pool, qkv.rows, 1, [&w](std::int64_t begin, std::int64_t end, int worker) {
    set_float_mode();
    for (std::int64_t row = begin; row < end; ++row) prepare_row(w, row, worker);
  });
  std::int32_t units = 0;
  for (std::size_t i = 0; i < step.batch().sequences(); ++i) units += w.sequences[i].units;
  device.pool->run(units, [&w](int unit, int worker) {
    set_float_mode();
    const Sequence* s = w.sequences;
    while (unit >= s->units) unit -= (s++)->units;
    attend_unit(w, *s, unit, worker);
  });
  for_range(*device.pool, qkv.rows, 1, [&w](std::int64_t begin, std::int64_t end, int worker) {
    set_float_mode();
    for (std::int64_t row = begin; row < end; ++row) merge_row(w, row, worker);
  });
  return out;
}

}  // namespace mesh::backends::cpu
