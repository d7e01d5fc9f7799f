#pragma once
// Cryptography for tests and simulation: signatures are hashes that anybody could make. Production
// never links to a node built on it.

#include "membership/verifier.h"

namespace mesh::membership {

class FakeVerifier : public Verifier {
 public:
  FakeVerifier(PeerId self, std::string cluster_key)
      : self_(self), cluster_key_(std::move(cluster_key)) {}

  Result<void> certificate(const wire::Certificate& certificate, PeerId peer,
                           std::int64_t now_unix_ms) const override;
  bool record_signature(PeerId owner, std::string_view public_key, std::string_view bytes,
                        std::string_view signature) const override;
  std::string cluster_name(std::string_view cluster_key) const override;
  std::string sign(std::string_view bytes) const override;
  std::string public_key() const override;

  // A certificate of `node` that this class accepts.
  static wire::Certificate issue(const std::string& cluster_key, PeerId node,
                                 std::int64_t not_after_ms);

 private:
  PeerId self_;
  std::string cluster_key_;  // 32 bytes
};

}  // namespace mesh::membership
