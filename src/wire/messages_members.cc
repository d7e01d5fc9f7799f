#include <cmath>

#include "base/error_table.h"
#include "base/hash.h"
#include "base/limits.h"
#include "wire/codec.h"
#include "wire/mesh.pb.h"
#include "wire/messages.h"

namespace mesh::wire {
namespace {

constexpr auto kControl = env::Priority::kControl;

void put(const EngineIdentity& engine, proto::Engine& out) {
  out.set_version(clean_text(engine.version, limits::kNameBytes));
  out.set_numeric_class(clean_text(engine.numeric_class, limits::kNameBytes));
  out.set_self_test(engine.self_test);
}

EngineIdentity get(const proto::Engine& in, Fields& fields) {
  EngineIdentity engine;
  engine.version = fields.text(in.version(), limits::kNameBytes, "the engine version");
  engine.numeric_class = fields.text(in.numeric_class(), limits::kNameBytes, "the numeric class");
  engine.self_test = in.self_test();
  return engine;
}

void put(const ModelIdentity& model, proto::Model& out) {
  out.set_name(clean_text(model.name, limits::kNameBytes));
  out.set_fingerprint(model.fingerprint);
  out.set_layers(model.layers);
  out.set_hidden(model.hidden);
  out.set_context(model.context);
  out.set_vocabulary(model.vocabulary);
  out.set_kv_dtype(clean_text(model.kv_dtype, limits::kNameBytes));
}

ModelIdentity get(const proto::Model& in, Fields& fields) {
  ModelIdentity model;
  model.name = fields.text(in.name(), limits::kNameBytes, "the model name");
  model.fingerprint = in.fingerprint();
  model.layers = in.layers();
  model.hidden = in.hidden();
  model.context = in.context();
  model.vocabulary = in.vocabulary();
  model.kv_dtype = fields.text(in.kv_dtype(), limits::kNameBytes, "the type of the KV cache");
  fields.require(
      model.layers <= limits::kLayers && model.hidden <= limits::kHidden &&
          model.context <= limits::kContext && model.vocabulary <= limits::kVocabulary,
      fmt::format("a model of {} layers, hidden size {}, context {} and vocabulary {}; the "
                  "limits are {}, {}, {} and {}",
                  model.layers, model.hidden, model.context, model.vocabulary, limits::kLayers,
                  limits::kHidden, limits::kContext, limits::kVocabulary));
  return model;
}

LayerRange get(const proto::Layers& in, Fields& fields) {
  fields.require(in.begin() <= in.end() && in.end() <= limits::kLayers,
                 fmt::format("layers {}:{} are no range within {} layers", in.begin(), in.end(),
                             limits::kLayers));
  return LayerRange{in.begin(), in.end()};
}

template <typename List>
void put_addresses(const std::vector<std::string>& addresses, List* out) {
  for (const std::string& address : addresses)
    if (static_cast<std::size_t>(out->size()) < limits::kAddressesPerPeer)
      *out->Add() = clean_text(address, limits::kAddressBytes);
}

template <typename List>
std::vector<std::string> get_addresses(const List& in, Fields& fields) {
  std::vector<std::string> addresses;
  fields.require(
      static_cast<std::size_t>(in.size()) <= limits::kAddressesPerPeer,
      fmt::format("{} addresses, the limit is {}", in.size(), limits::kAddressesPerPeer));
  if (!fields.ok()) return addresses;
  for (const std::string& address : in)
    addresses.push_back(fields.text(address, limits::kAddressBytes, "an address"));
  return addresses;
}

proto::Certificate to_proto(const Certificate& certificate) {
  proto::Certificate out;
  out.set_cluster_key(certificate.cluster_key);
  out.set_node(raw(certificate.node));
  for (const std::string& role : certificate.roles) out.add_roles(role);
  out.set_serial(certificate.serial);
  out.set_not_before_ms(certificate.not_before_ms);
  out.set_not_after_ms(certificate.not_after_ms);
  out.set_signature(certificate.signature);
  return out;
}

Certificate get(const proto::Certificate& in, Fields& fields) {
  Certificate certificate;
  fields.require(in.cluster_key().size() == 32, "the cluster key has not 32 bytes");
  fields.require(in.signature().size() == limits::kSignatureBytes,
                 "the certificate's signature has not 64 bytes");
  fields.require(static_cast<std::size_t>(in.roles_size()) <= limits::kRoles,
                 fmt::format("{} roles, the limit is {}", in.roles_size(), limits::kRoles));
  if (!fields.ok()) return certificate;
  certificate.cluster_key = in.cluster_key();
  certificate.node = fields.peer(in.node(), "the certificate's node");
  for (const std::string& role : in.roles())
    certificate.roles.push_back(fields.text(role, limits::kRoleBytes, "a role"));
  certificate.serial = in.serial();
  certificate.not_before_ms = in.not_before_ms();
  certificate.not_after_ms = in.not_after_ms();
  certificate.signature = in.signature();
  return certificate;
}

void append_u64(std::string& out, std::uint64_t value) {
  for (int i = 0; i < 8; ++i) out += static_cast<char>(value >> (8 * i));
}

void append_text(std::string& out, std::string_view text) {
  append_u64(out, text.size());
  out += text;
}

}  // namespace

env::Frame encode(const Hello& message) {
  proto::Hello out;
  out.set_protocol(message.protocol);
  out.set_node_name(clean_text(message.node_name, limits::kNameBytes));
  *out.mutable_certificate() = to_proto(message.certificate);
  put(message.engine, *out.mutable_engine());
  if (message.model) put(*message.model, *out.mutable_model());
  put_addresses(message.addresses, out.mutable_addresses());
  return pack(FrameType::kHello, kControl, out);
}

Result<Hello> decode_hello(const env::Frame& frame) {
  proto::Hello in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kHello, in));
  Fields fields("HELLO");
  fields.require(in.has_certificate() && in.has_engine(), "certificate or engine is missing");
  Hello message;
  message.protocol = in.protocol();
  message.node_name = fields.text(in.node_name(), limits::kNameBytes, "the node name");
  message.certificate = get(in.certificate(), fields);
  message.engine = get(in.engine(), fields);
  if (in.has_model()) message.model = get(in.model(), fields);
  message.addresses = get_addresses(in.addresses(), fields);
  if (!fields.ok()) return fields.error();
  return message;
}

env::Frame encode(const Refuse& message) {
  proto::Refuse out;
  put_failure(message.why, *out.mutable_why());
  return pack(FrameType::kRefuse, kControl, out);
}

Result<Refuse> decode_refuse(const env::Frame& frame) {
  proto::Refuse in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kRefuse, in));
  Fields fields("REFUSE");
  const std::string text = fields.text(in.why().message(), limits::kSentenceBytes, "the reason");
  if (!fields.ok()) return fields.error();
  return Refuse{Error(code_from_wire(in.why().code()), text, in.why().retryable())};
}

env::Frame encode(const Heartbeat& message) {
  proto::Heartbeat out;
  out.set_count(message.count);
  out.set_sent_ns(message.sent_ns);
  out.set_echo_ns(message.echo_ns);
  return pack(FrameType::kHeartbeat, kControl, out);
}

Result<Heartbeat> decode_heartbeat(const env::Frame& frame) {
  proto::Heartbeat in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kHeartbeat, in));
  return Heartbeat{in.count(), in.sent_ns(), in.echo_ns()};
}

env::Frame encode(const SignedRecord& message) {
  proto::SignedRecord out;
  out.set_record(message.record);
  out.set_public_key(message.public_key);
  out.set_signature(message.signature);
  return pack(FrameType::kRecord, kControl, out);
}

Result<SignedRecord> decode_signed_record(const env::Frame& frame) {
  proto::SignedRecord in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kRecord, in));
  Fields fields("RECORD");
  fields.require(!in.record().empty() && in.record().size() <= limits::kRecordBytes,
                 fmt::format("a record of {} bytes, the limit is {}", in.record().size(),
                             limits::kRecordBytes));
  fields.require(!in.public_key().empty() && in.public_key().size() <= limits::kPublicKeyBytes,
                 fmt::format("a public key of {} bytes, the limit is {}", in.public_key().size(),
                             limits::kPublicKeyBytes));
  fields.require(in.signature().size() == limits::kSignatureBytes,
                 "the signature has not 64 bytes");
  if (!fields.ok()) return fields.error();
  return SignedRecord{in.record(), in.public_key(), in.signature()};
}

env::Frame encode(const Plan& message) {
  proto::Plan out;
  out.set_epoch(message.epoch.value);
  out.set_planner(raw(message.planner));
  out.set_fingerprint(message.fingerprint);
  out.set_layers(message.layers);
  for (const StageAssignment& stage : message.stages) {
    proto::Stage& to = *out.add_stages();
    to.set_node(raw(stage.node));
    to.set_begin(stage.layers.begin);
    to.set_end(stage.layers.end);
  }
  return pack(FrameType::kPlan, kControl, out);
}

Result<Plan> decode_plan(const env::Frame& frame) {
  proto::Plan in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kPlan, in));
  Fields fields("PLAN");
  Plan message;
  message.epoch = Epoch{in.epoch()};
  message.planner = fields.peer(in.planner(), "the planner");
  message.fingerprint = in.fingerprint();
  message.layers = in.layers();
  fields.require(in.epoch() >= 1 && in.epoch() <= limits::kEpoch,
                 fmt::format("epoch {}, the limit is {}", in.epoch(), limits::kEpoch));
  fields.require(in.layers() >= 1 && in.layers() <= limits::kLayers,
                 fmt::format("{} layers, 1 to {} are possible", in.layers(), limits::kLayers));
  fields.require(static_cast<std::size_t>(in.stages_size()) <= limits::kRouteStages,
                 fmt::format("{} stages, the limit is {}", in.stages_size(), limits::kRouteStages));
  if (!fields.ok()) return fields.error();
  std::map<PeerId, bool> used;
  std::uint32_t next = 0;
  for (const proto::Stage& from : in.stages()) {
    StageAssignment stage{fields.peer(from.node(), "a stage's node"), {from.begin(), from.end()}};
    fields.require(from.begin() >= next && from.begin() < from.end() && from.end() <= in.layers(),
                   fmt::format("stage {}:{} does not follow layer {} of {}", from.begin(),
                               from.end(), next, in.layers()));
    fields.require(used.emplace(stage.node, true).second, "a node holds two stages");
    if (!fields.ok()) return fields.error();
    next = from.end();
    message.stages.push_back(stage);
  }
  return message;
}

std::string encode_record(const NodeRecord& record) {
  proto::Record out;
  out.set_node(raw(record.node));
  out.set_incarnation(record.incarnation);
  out.set_version(record.version);
  out.set_name(clean_text(record.name, limits::kNameBytes));
  put_addresses(record.addresses, out.mutable_addresses());
  out.set_http(clean_text(record.http, limits::kAddressBytes));
  out.set_device(clean_text(record.device, limits::kDeviceBytes));
  put(record.engine, *out.mutable_engine());
  if (record.model) put(*record.model, *out.mutable_model());
  out.set_willing(record.willing);
  if (record.pinned) {
    out.mutable_pinned()->set_begin(record.pinned->begin);
    out.mutable_pinned()->set_end(record.pinned->end);
  }
  out.set_memory_for_model(record.memory_for_model);
  out.set_state(static_cast<std::uint32_t>(record.state));
  out.set_epoch(record.epoch.value);
  out.mutable_layers()->set_begin(record.layers.begin);
  out.mutable_layers()->set_end(record.layers.end);
  out.set_bytes_loaded(record.bytes_loaded);
  out.set_rows_computed(record.rows_computed);
  out.set_pages_total(record.pages_total);
  out.set_pages_used(record.pages_used);
  out.set_tokens_per_s(record.tokens_per_s);
  out.set_problem(clean_text(record.problem, limits::kSentenceBytes));
  if (record.share.machine != 0) {
    out.mutable_share()->set_machine(record.share.machine);
    out.mutable_share()->set_cores(record.share.cores);
    out.mutable_share()->set_threads(record.share.threads);
  }
  // Sixteen very long addresses may not fit; the last ones are the least wanted.
  while (out.ByteSizeLong() > limits::kRecordBytes && out.addresses_size() > 0)
    out.mutable_addresses()->RemoveLast();
  return serialize(out);
}

Result<NodeRecord> decode_record(std::string_view bytes) {
  Fields fields("record");
  proto::Record in;
  if (bytes.size() > limits::kRecordBytes)
    return corrupt("record",
                   fmt::format("{} bytes, the limit is {}", bytes.size(), limits::kRecordBytes));
  if (!parse(bytes, in)) return corrupt("record", "the bytes do not parse");
  NodeRecord record;
  record.node = fields.peer(in.node(), "the node");
  record.incarnation = in.incarnation();
  record.version = in.version();
  fields.require(in.version() >= 1, "the version is zero");
  record.name = fields.text(in.name(), limits::kNameBytes, "the node name");
  record.addresses = get_addresses(in.addresses(), fields);
  record.http = fields.text(in.http(), limits::kAddressBytes, "the HTTP address");
  record.device = fields.text(in.device(), limits::kDeviceBytes, "the device");
  record.engine = get(in.engine(), fields);
  if (in.has_model()) record.model = get(in.model(), fields);
  record.willing = in.willing();
  if (in.has_pinned()) {
    record.pinned = get(in.pinned(), fields);
    fields.require(!record.pinned->empty(), "the pinned range is empty");
  }
  record.memory_for_model = in.memory_for_model();
  fields.require(in.state() <= static_cast<std::uint32_t>(NodeState::kFailed),
                 fmt::format("state {} is unknown", in.state()));
  record.state = fields.ok() ? static_cast<NodeState>(in.state()) : NodeState::kJoining;
  fields.require(in.epoch() <= limits::kEpoch,
                 fmt::format("epoch {}, the limit is {}", in.epoch(), limits::kEpoch));
  record.epoch = Epoch{in.epoch()};
  record.layers = get(in.layers(), fields);
  record.bytes_loaded = in.bytes_loaded();
  record.rows_computed = in.rows_computed();
  record.pages_total = in.pages_total();
  record.pages_used = in.pages_used();
  fields.require(std::isfinite(in.tokens_per_s()) && in.tokens_per_s() >= 0,
                 fmt::format("{} tokens/s is no rate", in.tokens_per_s()));
  record.tokens_per_s = in.tokens_per_s();
  record.problem = fields.text(in.problem(), limits::kSentenceBytes, "the problem");
  record.share = {in.share().machine(), in.share().cores(), in.share().threads()};
  if (!fields.ok()) return fields.error();
  return record;
}

std::string certificate_body(const Certificate& certificate) {
  std::string out = "mesh/1 certificate\n";
  append_text(out, certificate.cluster_key);
  append_text(out, raw(certificate.node));
  append_u64(out, certificate.roles.size());
  for (const std::string& role : certificate.roles) append_text(out, role);
  append_u64(out, certificate.serial);
  append_u64(out, static_cast<std::uint64_t>(certificate.not_before_ms));
  append_u64(out, static_cast<std::uint64_t>(certificate.not_after_ms));
  return out;
}

std::string encode_certificate(const Certificate& certificate) {
  return serialize(to_proto(certificate));
}

Result<Certificate> decode_certificate(std::string_view bytes) {
  proto::Certificate in;
  if (bytes.size() > limits::kCertificateBytes)
    return corrupt("certificate", fmt::format("{} bytes, the limit is {}", bytes.size(),
                                              limits::kCertificateBytes));
  if (!parse(bytes, in)) return corrupt("certificate", "the bytes do not parse");
  Fields fields("certificate");
  Certificate certificate = get(in, fields);
  if (!fields.ok()) return fields.error();
  return certificate;
}

RouteHandle route_handle(Epoch epoch, const std::vector<StageAssignment>& stages) {
  Hasher hasher;
  hasher.update_value(epoch.value);
  for (const StageAssignment& stage : stages) {
    hasher.update(std::as_bytes(std::span(stage.node.bytes)));
    hasher.update_value(stage.layers.begin);
    hasher.update_value(stage.layers.end);
  }
  return RouteHandle{hasher.digest()};
}

}  // namespace mesh::wire
