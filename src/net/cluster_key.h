#pragma once
// The key of a cluster and the certificates it signs: who holds the key may admit nodes.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "net/ed25519.h"
#include "wire/messages.h"

namespace mesh::net {

// As text: one line "tmck1-" + 56 characters of base32 (32 bytes of seed, 3 bytes of SHA-256 over
// the seed, so that a mistyped key is noticed). Secret. Immutable, cheap to copy, any thread.
class ClusterKey {
 public:
  explicit ClusterKey(Ed25519Key key) : key_(std::move(key)) {}
  static ClusterKey generate() { return ClusterKey(Ed25519Key::generate()); }

  std::string public_key() const { return key_.public_key(); }  // 32 raw bytes
  std::string to_text() const;                                  // without line end
  std::string sign(std::string_view bytes) const { return key_.sign(bytes); }

 private:
  Ed25519Key key_;
};

// Name of a cluster: SHA-256 of its public key as base32, in full (52 characters) or short (8).
std::string cluster_name(std::string_view cluster_public_key);
std::string cluster_short_name(std::string_view cluster_public_key);

// Draws a key and writes it to a new file (0600). Errors: invalid_argument when the file exists,
// unavailable.
Result<ClusterKey> create_cluster_key(const std::string& path);
// Errors: as read_secret_file() and parse_cluster_key().
Result<ClusterKey> load_cluster_key(const std::string& path);
// The text of a key, blanks around it ignored; never quoted in an error. Errors: invalid_argument.
Result<ClusterKey> parse_cluster_key(std::string_view text);

// `lifetime` > 0. Valid from limits::kCertificateSkew before `now_ms`, as clocks differ.
wire::Certificate issue_certificate(const ClusterKey& key, const PeerId& node,
                                    std::vector<std::string> roles, std::int64_t now_ms,
                                    Duration lifetime);

// That `certificate` makes `expected` a member of the cluster now. Errors, each one sentence:
// permission_denied for another cluster (both short names), another node, a bad signature, an
// expired or not yet valid certificate.
Result<void> verify_certificate(const wire::Certificate& certificate,
                                std::string_view cluster_public_key, const PeerId& expected,
                                std::int64_t now_ms);

}  // namespace mesh::net
