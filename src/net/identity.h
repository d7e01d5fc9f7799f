#pragma once
// Who this node is: an ed25519 key on disk, its id, and the certificate it shows in TLS.

#include <memory>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"
#include "net/ed25519.h"

struct x509_st;  // OpenSSL's X509

namespace mesh::net {

// Immutable, cheap to copy, any thread. The X.509 leaf is self-signed and made anew in every
// process; it carries nothing but the key: names, dates and chains are ignored by peers.
class NodeIdentity {
 public:
  explicit NodeIdentity(Ed25519Key key);
  static NodeIdentity generate() { return NodeIdentity(Ed25519Key::generate()); }

  const PeerId& id() const { return id_; }
  std::string public_key_der() const { return key_.public_key_der(); }
  std::string sign(std::string_view bytes) const { return key_.sign(bytes); }
  const Ed25519Key& key() const { return key_; }
  x509_st* certificate() const { return certificate_.get(); }

 private:
  Ed25519Key key_;
  PeerId id_;
  std::shared_ptr<x509_st> certificate_;
};

// <directory>/node.key (PEM, 0600); the directory is made (0700) and the key drawn when they are
// missing. Errors: permission_denied with the command that puts it right, corrupt, unavailable.
Result<NodeIdentity> load_or_create_identity(const std::string& directory);

// SHA-256 of a SubjectPublicKeyInfo. Any bytes: whether they are a key is for verify() to say.
PeerId peer_id_of(std::string_view public_key_der);

// True when `signature` is over `bytes` by the ed25519 key in `public_key_der`.
bool verify(std::string_view public_key_der, std::string_view bytes, std::string_view signature);

}  // namespace mesh::net
