#include "subjects.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/random.h"
#include "model/config.h"
#include "model/random_model.h"

namespace mesh::exactness {
namespace {

constexpr std::size_t kContents = 24;
constexpr std::size_t kLongContent = 560;

// All tensors of another source, read once.
class MemorySource final : public formats::TensorSource {
 public:
  static Result<std::shared_ptr<formats::TensorSource>> copy_of(const TensorSource& source) {
    auto copy = std::make_shared<MemorySource>();
    copy->infos_ = source.tensors();
    for (const tensor::TensorInfo& info : copy->infos_) {
      MESH_ASSIGN_OR_RETURN(copy->bytes_[info.name], source.read(info.name));
    }
    return std::shared_ptr<formats::TensorSource>(std::move(copy));
  }
  const std::vector<tensor::TensorInfo>& tensors() const override { return infos_; }
  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    auto checked = formats::check_part(*this, name, offset, out.size());
    if (!checked.ok()) return checked.error();
    if (!out.empty()) std::memcpy(out.data(), bytes_.at(name).bytes.data() + offset, out.size());
    return {};
  }
  std::uint64_t bytes_read() const override { return 0; }

 private:
  std::vector<tensor::TensorInfo> infos_;
  std::map<std::string, tensor::HostTensor> bytes_;
};

std::vector<TokenId> random_tokens(std::uint64_t seed, std::size_t count,
                                   std::uint32_t vocabulary) {
  Prng random(seed);
  std::vector<TokenId> tokens;
  for (std::size_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<TokenId>(random.below(vocabulary)));
  return tokens;
}

Result<Subject> make_subject(std::string name, Size size, formats::ModelFiles files) {
  Subject subject;
  MESH_ASSIGN_OR_RETURN(subject.spec, model::parse_config(files));
  subject.size = size;
  const std::size_t longest = std::min<std::size_t>(subject.spec.context, kLongContent);
  for (std::size_t c = 0; c < kContents; ++c)
    subject.contents.push_back(random_tokens(
        fnv1a64(name) + c, c == 0 ? longest : 3 + (c * 29) % 71, subject.spec.vocabulary));
  subject.name = std::move(name);
  subject.files = std::move(files);
  return subject;
}

// Sizes that are no multiple of anything, a shared expert, and one dense layer.
Result<Subject> make_moe_subject() {
  model::RandomModelOptions shape;
  shape.family = "qwen2_moe";
  shape.hidden = 148;
  shape.intermediate = 300;
  shape.head_dim = 36;
  shape.experts = 24;
  shape.top_k = 5;
  shape.expert_intermediate = 75;
  shape.shared_intermediate = 110;
  shape.mlp_only_layers = {2};
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, model::make_random_model(shape));
  return make_subject("random-experts", Size::kSmall, std::move(files));
}

// Every GGUF fixture of a family that is computed; of split files the first part names the whole.
Result<void> add_gguf_subjects(std::vector<Subject>& subjects) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(MESH_TEST_DATA "/gguf")) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".gguf" && name.find("-split-") == std::string::npos &&
        name.rfind("gpt-oss", 0) != 0)
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  for (const std::filesystem::path& path : files) {
    MESH_ASSIGN_OR_RETURN(formats::ModelFiles model, formats::open_model(path.string(), {}));
    MESH_ASSIGN_OR_RETURN(Subject subject,
                          make_subject(path.filename().string(), Size::kTiny, std::move(model)));
    subject.one_cut_each = true;
    subjects.push_back(std::move(subject));
  }
  return {};
}

// The types of which there is no fixture, and experts in a mixture of types.
Result<void> add_random_quantised(std::vector<Subject>& subjects) {
  using tensor::DType;
  for (const DType type :
       {DType::kQ2_K, DType::kQ3_K, DType::kIQ4_XS, DType::kMXFP4, DType::kQ4_K}) {
    model::RandomModelOptions shape;
    shape.family = type == DType::kQ4_K ? "qwen3_moe" : "qwen3";
    shape.layers = 3;
    shape.hidden = 256;
    shape.intermediate = 768;
    shape.expert_intermediate = 256;
    shape.head_dim = 64;
    shape.dtype = type;
    shape.mixed = type == DType::kQ4_K;
    MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, model::make_random_model(shape));
    MESH_ASSIGN_OR_RETURN(Subject subject,
                          make_subject("random-" + std::string(tensor::dtype_name(type)),
                                       Size::kTiny, std::move(files)));
    subject.one_cut_each = true;
    subjects.push_back(std::move(subject));
  }
  return {};
}

}  // namespace

Result<std::vector<Subject>> make_subjects(bool with_big) {
  std::vector<Subject> subjects;
  std::vector<std::filesystem::path> directories;
  for (const auto& entry : std::filesystem::directory_iterator(MESH_TEST_DATA "/models"))
    if (entry.is_directory()) directories.push_back(entry.path());
  std::sort(directories.begin(), directories.end());
  for (const std::filesystem::path& path : directories) {
    MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, formats::open_model(path.string(), {}));
    MESH_ASSIGN_OR_RETURN(Subject subject,
                          make_subject(path.filename().string(), Size::kTiny, std::move(files)));
    subjects.push_back(std::move(subject));
  }
  MESH_ASSIGN_OR_RETURN(Subject pocket,
                        make_subject("pocket", Size::kSmall, formats::open_builtin_model()));
  subjects.push_back(std::move(pocket));
  formats::ModelFiles small_cache = formats::open_builtin_model();
  small_cache.kv_type = tensor::DType::kI8;
  MESH_ASSIGN_OR_RETURN(Subject pocket_q8,
                        make_subject("pocket, KV in q8", Size::kSmall, std::move(small_cache)));
  pocket_q8.one_cut_each = true;
  subjects.push_back(std::move(pocket_q8));
  MESH_ASSIGN_OR_RETURN(Subject experts, make_moe_subject());
  subjects.push_back(std::move(experts));
  MESH_RETURN_IF_ERROR(add_gguf_subjects(subjects));
  MESH_RETURN_IF_ERROR(add_random_quantised(subjects));
  if (!with_big) return subjects;
  model::RandomModelOptions shape;
  shape.family = "qwen3";
  shape.layers = 4;
  shape.hidden = 1024;
  shape.intermediate = 2840;
  shape.heads = 16;
  shape.kv_heads = 4;
  shape.head_dim = 64;
  shape.vocabulary = 32769;
  shape.tied = true;
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, model::make_random_model(shape));
  MESH_ASSIGN_OR_RETURN(files.tensors, MemorySource::copy_of(*files.tensors));
  MESH_ASSIGN_OR_RETURN(Subject big, make_subject("random-4x1024", Size::kBig, std::move(files)));
  subjects.push_back(std::move(big));
  return subjects;
}

Result<Subject> make_long_subject() {
  model::RandomModelOptions shape;
  shape.layers = 2;
  shape.hidden = 128;
  shape.intermediate = 256;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 32;
  shape.vocabulary = 512;
  shape.context = 1200;
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, model::make_random_model(shape));
  MESH_ASSIGN_OR_RETURN(Subject subject,
                        make_subject("random-long", Size::kSmall, std::move(files)));
  subject.contents = {random_tokens(fnv1a64(subject.name), 1100, shape.vocabulary)};
  return subject;
}

Result<Subject> make_small_subject() {
  model::RandomModelOptions shape;
  shape.vocabulary = 4099;
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, model::make_random_model(shape));
  return make_subject("random-small", Size::kTiny, std::move(files));
}

}  // namespace mesh::exactness
