#pragma once
// What membership asks of cryptography. net/ implements it with OpenSSL, sim/ with a fake.

#include <cstdint>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"
#include "wire/messages.h"

namespace mesh::membership {

// Pure queries without state; control-loop only. Not owned by its users.
class Verifier {
 public:
  virtual ~Verifier() = default;
  // Whether `certificate` makes `peer` (proved by its link) a member of our cluster at
  // `now_unix_ms`. Errors: kPermissionDenied with one sentence that can be shown to both sides.
  virtual Result<void> certificate(const wire::Certificate& certificate, PeerId peer,
                                   std::int64_t now_unix_ms) const = 0;
  // True when SHA-256(public_key) is `owner` and `signature` is its ed25519 signature of `bytes`.
  // All of it comes from peers.
  virtual bool record_signature(PeerId owner, std::string_view public_key, std::string_view bytes,
                                std::string_view signature) const = 0;
  // Name of a cluster for people, of its public key.
  virtual std::string cluster_name(std::string_view cluster_key) const = 0;
  // This node's ed25519 signature (64 bytes) of `bytes`.
  virtual std::string sign(std::string_view bytes) const = 0;
  // This node's SubjectPublicKeyInfo (DER); SHA-256 of it is the node's id.
  virtual std::string public_key() const = 0;
};

}  // namespace mesh::membership
