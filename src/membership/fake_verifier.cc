#include "membership/fake_verifier.h"

#include "base/hash.h"

namespace mesh::membership {
namespace {

std::string key_of(PeerId id) {
  return "fake key " + std::string(id.bytes.begin(), id.bytes.end());
}

std::string fake_signature(std::string_view key, std::string_view bytes) {
  std::string out;
  for (std::uint64_t part = 0; part < 8; ++part) {
    const std::uint64_t word = xxh3_64(bytes, xxh3_64(key, part));
    out.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return out;
}

}  // namespace

Result<void> FakeVerifier::certificate(const wire::Certificate& certificate, PeerId peer,
                                       std::int64_t now_unix_ms) const {
  if (certificate.cluster_key != cluster_key_ || certificate.node != peer ||
      certificate.signature != fake_signature(cluster_key_, wire::certificate_body(certificate)))
    return Error(Code::kPermissionDenied, "its certificate is not signed by this cluster");
  if (now_unix_ms < certificate.not_before_ms || now_unix_ms > certificate.not_after_ms)
    return Error(Code::kPermissionDenied, "its certificate has expired");
  return {};
}

bool FakeVerifier::record_signature(PeerId owner, std::string_view public_key,
                                    std::string_view bytes, std::string_view signature) const {
  return public_key == key_of(owner) && signature == fake_signature(public_key, bytes);
}

std::string FakeVerifier::sign(std::string_view bytes) const {
  return fake_signature(public_key(), bytes);
}

std::string FakeVerifier::public_key() const {
  return key_of(self_);
}

std::string FakeVerifier::cluster_name(std::string_view cluster_key) const {
  return to_hex(as_bytes(cluster_key)).substr(0, 8);
}

wire::Certificate FakeVerifier::issue(const std::string& cluster_key, PeerId node,
                                      std::int64_t not_after_ms) {
  wire::Certificate certificate;
  certificate.cluster_key = cluster_key;
  certificate.node = node;
  certificate.roles = {"full"};
  certificate.not_after_ms = not_after_ms;
  certificate.signature = fake_signature(cluster_key, wire::certificate_body(certificate));
  return certificate;
}

}  // namespace mesh::membership
