#include "net/cluster_key.h"

#include <openssl/rand.h>

#include <optional>

#include "base/check.h"
#include "base/limits.h"
#include "net/secret_file.h"

namespace mesh::net {
namespace {

constexpr std::string_view kTag = "tmck1-";
constexpr std::size_t kCheckBytes = 3;
constexpr std::size_t kTextBytes = (kEd25519KeyBytes + kCheckBytes) * 8 / 5;  // 56, no rest
constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyz234567";    // RFC 4648

std::string base32(std::string_view bytes) {
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(c);
    for (count += 8; count >= 5; count -= 5) out += kAlphabet[bits >> (count - 5) & 31];
  }
  return out;
}

// Bytes of a text whose length is a multiple of 8 characters; upper case is accepted.
std::optional<std::string> from_base32(std::string_view text) {
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t value = kAlphabet.find(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
    if (value == std::string_view::npos) return std::nullopt;
    bits = bits << 5 | static_cast<std::uint32_t>(value);
    if ((count += 5) >= 8) out += static_cast<char>(bits >> (count -= 8) & 255);
  }
  return out;
}

std::int64_t to_ms(Duration duration) {
  return duration.count() / 1'000'000;
}

std::string hours(std::int64_t ms) {
  const std::int64_t minutes = ms / 60'000;
  return minutes < 120 ? fmt::format("{} minutes", minutes) : fmt::format("{} hours", minutes / 60);
}

}  // namespace

std::string ClusterKey::to_text() const {
  const std::string seed = key_.seed();
  return std::string(kTag) + base32(seed + sha256(seed).substr(0, kCheckBytes));
}

std::string cluster_name(std::string_view cluster_public_key) {
  return PeerId::from_bytes(sha256(cluster_public_key)).value().to_string();
}

std::string cluster_short_name(std::string_view cluster_public_key) {
  return cluster_name(cluster_public_key).substr(0, 8);
}

Result<ClusterKey> create_cluster_key(const std::string& path) {
  ClusterKey key = ClusterKey::generate();
  const Result<void> made = create_secret_file(path, key.to_text() + "\n");
  if (!made.ok()) return made.error().with_context("cluster key");
  return key;
}

Result<ClusterKey> load_cluster_key(const std::string& path) {
  const Result<std::string> text = read_secret_file(path, limits::kKeyFileBytes);
  if (!text.ok()) return text.error().with_context("cluster key");
  Result<ClusterKey> key = parse_cluster_key(*text);
  if (!key.ok()) return key.error().with_context(path);
  return key;
}

Result<ClusterKey> parse_cluster_key(std::string_view text) {
  const auto wrong = [](std::string_view why) {
    return Error(Code::kInvalidArgument, fmt::format("this is not a cluster key: {}", why));
  };
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return wrong("it is empty");
  text = text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
  if (text.substr(0, kTag.size()) != kTag)
    return wrong(fmt::format("it does not begin with '{}'", kTag));
  text.remove_prefix(kTag.size());
  if (text.size() != kTextBytes)
    return wrong(fmt::format("{} characters follow '{}', not {}", text.size(), kTag, kTextBytes));
  const std::optional<std::string> bytes = from_base32(text);
  if (!bytes) return wrong("it has characters other than a-z and 2-7");
  const std::string seed = bytes->substr(0, kEd25519KeyBytes);
  if (sha256(seed).substr(0, kCheckBytes) != bytes->substr(kEd25519KeyBytes))
    return wrong("its check characters do not fit, so it has been mistyped");
  MESH_ASSIGN_OR_RETURN(Ed25519Key key, Ed25519Key::from_seed(seed));
  return ClusterKey(std::move(key));
}

wire::Certificate issue_certificate(const ClusterKey& key, const PeerId& node,
                                    std::vector<std::string> roles, std::int64_t now_ms,
                                    Duration lifetime) {
  MESH_CHECK(lifetime > Duration::zero(), "a certificate for {} ns", lifetime.count());
  wire::Certificate certificate;
  certificate.cluster_key = key.public_key();
  certificate.node = node;
  certificate.roles = std::move(roles);
  const int drawn =
      RAND_bytes(reinterpret_cast<unsigned char*>(&certificate.serial), sizeof certificate.serial);
  MESH_CHECK(drawn == 1, "OpenSSL has no random bytes");
  certificate.not_before_ms = now_ms - to_ms(limits::kCertificateSkew);
  certificate.not_after_ms = now_ms + to_ms(lifetime);
  certificate.signature = key.sign(wire::certificate_body(certificate));
  return certificate;
}

Result<void> verify_certificate(const wire::Certificate& certificate,
                                std::string_view cluster_public_key, const PeerId& expected,
                                std::int64_t now_ms) {
  const auto refused = [](std::string message) {
    return Error(Code::kPermissionDenied, std::move(message));
  };
  if (certificate.cluster_key != cluster_public_key)
    return refused(
        fmt::format("{} belongs to another cluster: its certificate is of {}, this "
                    "cluster is {}",
                    expected.short_name(), cluster_short_name(certificate.cluster_key),
                    cluster_short_name(cluster_public_key)));
  // The signature comes first: what else the certificate says counts only if the cluster said it.
  if (!verify_raw(cluster_public_key, wire::certificate_body(certificate), certificate.signature))
    return refused(fmt::format("the certificate of {} is not signed by the key of cluster {}",
                               expected.short_name(), cluster_short_name(cluster_public_key)));
  if (certificate.node != expected)
    return refused(fmt::format("{} shows the certificate of another node, {}",
                               expected.short_name(), certificate.node.short_name()));
  if (now_ms < certificate.not_before_ms)
    return refused(
        fmt::format("the certificate of {} is valid only in {}; is the clock of this "
                    "machine right?",
                    expected.short_name(), hours(certificate.not_before_ms - now_ms)));
  if (now_ms >= certificate.not_after_ms)
    return refused(fmt::format("the certificate of {} expired {} ago; it must be issued again",
                               expected.short_name(), hours(now_ms - certificate.not_after_ms)));
  return {};
}

}  // namespace mesh::net
