#pragma once
// Ed25519 keys (RFC 8032) by OpenSSL.

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

struct evp_pkey_st;  // OpenSSL's EVP_PKEY

namespace mesh::net {

inline constexpr std::size_t kEd25519KeyBytes = 32;  // seed and public key
inline constexpr std::size_t kEd25519SignatureBytes = 64;

// A private key. Immutable, cheap to copy; any thread.
class Ed25519Key {
 public:
  static Ed25519Key generate();
  static Result<Ed25519Key> from_seed(std::string_view seed);  // 32 bytes
  static Result<Ed25519Key> from_pem(std::string_view text);   // PKCS #8, unencrypted

  std::string seed() const;            // 32 bytes, secret
  std::string pem() const;             // PKCS #8, secret
  std::string public_key() const;      // 32 bytes
  std::string public_key_der() const;  // SubjectPublicKeyInfo, 44 bytes
  std::string sign(std::string_view bytes) const;
  evp_pkey_st* native() const { return key_.get(); }

 private:
  explicit Ed25519Key(std::shared_ptr<evp_pkey_st> key) : key_(std::move(key)) {}
  std::shared_ptr<evp_pkey_st> key_;
};

// `public_key`: 32 raw bytes. False for anything that is not a good signature, of whatever shape.
bool verify_raw(std::string_view public_key, std::string_view bytes, std::string_view signature);
// The 32 raw bytes inside a SubjectPublicKeyInfo of an ed25519 key; corrupt for anything else.
Result<std::string> raw_public_key(std::string_view public_key_der);
std::string sha256(std::string_view bytes);  // 32 raw bytes

}  // namespace mesh::net
