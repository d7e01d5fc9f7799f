#include "limits/sentences.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "api/chat_request.h"
#include "api/completion_request.h"
#include "api/tokenize_request.h"
#include "base/check.h"
#include "formats/model_files.h"
#include "formats/safetensors.h"
#include "limits/scan.h"
#include "model/config.h"
#include "model/generation_config.h"
#include "text/tokenizer.h"
#include "wire/frame.h"
#include "wire/messages.h"

namespace mesh::limits_test {
namespace {

using Json = nlohmann::json;

template <typename T>
std::string sentence(const Result<T>& result) {
  return result.ok() ? kAccepted : result.error().message;
}

template <typename T>
std::string api_sentence(const std::variant<T, api::ApiError>& parsed) {
  const auto* error = std::get_if<api::ApiError>(&parsed);
  return error == nullptr ? kAccepted : error->message;
}

// A memory file with this content; its path is good until the process ends.
std::string memory_file(std::string_view content) {
  const int descriptor = memfd_create("limits", 0);
  MESH_CHECK(descriptor >= 0, "no memory file");
  MESH_CHECK(
      ::write(descriptor, content.data(), content.size()) == static_cast<ssize_t>(content.size()),
      "the memory file is not written");
  return "/proc/self/fd/" + std::to_string(descriptor);
}

// The number of the descriptor changes from run to run.
std::string without_path(std::string text, const std::string& path) {
  for (std::size_t at = text.find(path); at != text.npos; at = text.find(path))
    text.replace(at, path.size(), "FILE");
  return text;
}

std::string config_says(const std::string& fixture, const std::string& patch,
                        const std::string& generation) {
  auto files = formats::open_model(MESH_TEST_DATA "/models/" + fixture, {});
  MESH_CHECK(files.ok(), "{}", files.error().message);
  Json config = Json::parse(files->config_json);
  config.merge_patch(Json::parse(patch));
  files->config_json = config.dump();
  files->generation_config_json = generation;
  const auto spec = model::parse_config(*files);
  if (!spec.ok()) return spec.error().message;
  return generation.empty() ? kAccepted : sentence(model::parse_sampling_defaults(generation));
}

// --- protobuf: what is appended to an encoded message replaces its field, or adds to a list

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

template <typename T>
std::string raw_bytes(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

double number_of(const std::string& text) {
  return text == "nan" ? std::numeric_limits<double>::quiet_NaN() : std::stod(text);
}

std::string field_bytes(int number, const std::string& type, const std::string& value) {
  const auto tag = [&](int wire_type) {
    return varint(static_cast<std::uint64_t>(number * 8 + wire_type));
  };
  const auto whole = [&] { return static_cast<std::uint64_t>(std::stoull(value)); };
  if (type == "float") return tag(5) + raw_bytes(static_cast<float>(number_of(value)));
  if (type == "double") return tag(1) + raw_bytes(number_of(value));
  if (type == "fixed64") return tag(1) + raw_bytes(whole());
  if (type == "sint32") {
    const auto n = static_cast<std::int32_t>(std::stol(value));
    return tag(0) + varint((static_cast<std::uint32_t>(n) << 1) ^ (n < 0 ? ~0u : 0u));
  }
  if (type == "bytes") {  // "N c": N times the character; "N": N times 'x'
    std::istringstream in(value);
    std::size_t count = 0;
    char c = 'x';
    in >> count >> c;
    return tag(2) + varint(count) + std::string(count, c == '^' ? '\x01' : c);
  }
  return tag(0) + varint(whole());
}

// "Hello.certificate.node 5": the bytes that set this field, and the message at the root. Behind an
// '&' fields beside it.
std::pair<std::string, std::string> field_patch(const std::string& input) {
  static const auto kFields = wire_fields(read_source("src/wire/mesh.proto"));
  const std::size_t space = input.find(' ');
  std::istringstream path(input.substr(0, space));
  std::string root, part;
  std::getline(path, root, '.');
  std::vector<WireField> steps;
  std::string message = root, parent = root;
  while (std::getline(path, part, '.')) {
    parent = message;
    steps.push_back(kFields.at(message).at(part));
    message = steps.back().type;
  }
  std::istringstream values(input.substr(space + 1));
  std::string value;
  std::getline(values, value, '&');
  std::string bytes = field_bytes(steps.back().number, steps.back().type, value);
  for (std::string more; std::getline(values, more, '&');) {
    const std::size_t end = more.find(' ');
    const WireField& field = kFields.at(parent).at(more.substr(0, end));
    bytes += field_bytes(field.number, field.type, more.substr(end + 1));
  }
  for (std::size_t i = steps.size() - 1; i-- > 0;)
    bytes =
        varint(static_cast<std::uint64_t>(steps[i].number * 8 + 2)) + varint(bytes.size()) + bytes;
  return {root, bytes};
}

// Several of them with ',' between; "17*" in front of one adds it so often.
std::pair<std::string, std::string> wire_patch(const std::string& input) {
  std::istringstream parts(input);
  std::string part, bytes, root;
  while (std::getline(parts, part, ',')) {
    const std::size_t star = part.find('*');
    const int times = star == part.npos ? 1 : std::stoi(part);
    const auto [message, patch] = field_patch(star == part.npos ? part : part.substr(star + 1));
    root = message;
    for (int i = 0; i < times; ++i) bytes += patch;
  }
  return {root, bytes};
}

std::string decoded(const std::string& root, const env::Frame& frame) {
  if (root == "Hello") return sentence(wire::decode_hello(frame));
  if (root == "Refuse") return sentence(wire::decode_refuse(frame));
  if (root == "Heartbeat") return sentence(wire::decode_heartbeat(frame));
  if (root == "SignedRecord") return sentence(wire::decode_signed_record(frame));
  if (root == "Plan") return sentence(wire::decode_plan(frame));
  if (root == "Open") return sentence(wire::decode_open(frame));
  if (root == "OpenReply") return sentence(wire::decode_open_reply(frame));
  if (root == "Extend") return sentence(wire::decode_extend(frame));
  if (root == "Credit") return sentence(wire::decode_credit(frame));
  if (root == "RowsDone") return sentence(wire::decode_rows_done(frame));
  if (root == "Prompt") return sentence(wire::decode_prompt(frame));
  if (root == "Step") return sentence(wire::decode_step(frame, 8));
  if (root == "Tokens") return sentence(wire::decode_tokens(frame));
  if (root == "Sequences") return sentence(wire::decode_fail(frame));
  return "no decoder for " + root;
}

std::string seed_of(const std::string& root) {
  static const std::map<std::string, std::string> kSeeds = {
      {"Hello", "hello"},   {"Refuse", "refuse"},        {"Heartbeat", "heartbeat"},
      {"Plan", "plan"},     {"SignedRecord", "record"},  {"Open", "open"},
      {"Extend", "extend"}, {"OpenReply", "open_reply"}, {"Credit", "credit"},
      {"Prompt", "prompt"}, {"RowsDone", "rows_done"},   {"Step", "step"},
      {"Tokens", "tokens"}, {"Sequences", "fail"}};
  return read_source("fuzz/corpus/wire_frame/valid_" + kSeeds.at(root));
}

std::string wire_says(const std::string& input) {
  const auto [root, patch] = wire_patch(input);
  if (root == "Record")
    return sentence(
        wire::decode_record(read_source("fuzz/corpus/wire_record/valid_record") + patch));
  const std::string bytes = seed_of(root);
  auto frame = wire::decode_frame(std::as_bytes(std::span(bytes)));
  MESH_CHECK(frame.ok(), "{}", frame.error().message);
  MESH_CHECK(decoded(root, *frame) == kAccepted, "the seed of {} is not accepted", root);
  const std::string header = std::string(frame->header.text()) + patch;
  frame->header = Buffer::copy_of(std::as_bytes(std::span(header)));
  return decoded(root, *frame);
}

std::string index_says(const std::string& json) {
  const std::string path = memory_file(json);
  return without_path(sentence(formats::open_safetensors_index(path)), path);
}

}  // namespace

std::string sparse_file(std::uint64_t bytes) {
  const std::string path = memory_file("");
  MESH_CHECK(truncate(path.c_str(), static_cast<off_t>(bytes)) == 0, "the file does not grow");
  return path;
}

std::string safetensors_says(const std::string& header, std::size_t data_bytes) {
  std::string file = raw_bytes(std::uint64_t{header.size()}) + header;
  const std::size_t prefix = file.size();
  file.append(data_bytes, '\0');
  return sentence(formats::parse_safetensors_header(std::as_bytes(std::span(file)).first(prefix),
                                                    file.size(), "FILE"));
}

std::string patched_tokenizer(const std::string& patch) {
  Json json = {{"model",
                {{"type", "BPE"},
                 {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}},
                 {"merges", Json::array({"a b"})}}},
               {"pre_tokenizer", {{"type", "ByteLevel"}}},
               {"decoder", {{"type", "ByteLevel"}}}};
  json.merge_patch(Json::parse(patch));
  return json.dump();
}

const std::map<std::string, std::function<std::string(const std::string&)>>& ways() {
  using S = const std::string&;
  static const std::map<std::string, std::function<std::string(S)>> kWays = {
      {"chat", [](S body) { return api_sentence(api::parse_chat_request(body)); }},
      {"completion", [](S body) { return api_sentence(api::parse_completion_request(body)); }},
      {"tokenize", [](S body) { return api_sentence(api::parse_tokenize_request(body)); }},
      {"detokenize", [](S body) { return api_sentence(api::parse_detokenize_request(body)); }},
      {"llama", [](S patch) { return config_says("llama", patch, ""); }},
      {"qwen2", [](S patch) { return config_says("qwen2", patch, ""); }},
      {"qwen2_moe", [](S patch) { return config_says("qwen2_moe", patch, ""); }},
      {"qwen3_moe", [](S patch) { return config_says("qwen3_moe", patch, ""); }},
      {"qwen3", [](S patch) { return config_says("qwen3", patch, ""); }},
      {"generation", [](S json) { return config_says("llama", "{}", json); }},
      {"tokenizer",
       [](S patch) { return sentence(text::Tokenizer::parse(patched_tokenizer(patch), "")); }},
      {"tokenizer_config",
       [](S json) { return sentence(text::Tokenizer::parse(patched_tokenizer("{}"), json)); }},
      {"template", [](S json) { return sentence(formats::template_of_tokenizer_config(json)); }},
      {"safetensors", [](S header) { return safetensors_says(header, 8); }},
      {"index", index_says},
      {"wire", wire_says},
  };
  return kWays;
}

std::string said(const std::string& how, const std::string& input) {
  const auto way = ways().find(how);
  return way == ways().end() ? "there is no way \"" + how + "\"" : way->second(input);
}

}  // namespace mesh::limits_test
