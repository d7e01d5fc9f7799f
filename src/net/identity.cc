#include "net/identity.h"

#include <openssl/asn1.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/check.h"
#include "base/limits.h"
#include "net/secret_file.h"

namespace mesh::net {
namespace {

// Dates are ignored by peers, so the certificate names the widest: no clock, nothing to renew.
std::shared_ptr<x509_st> make_certificate(const Ed25519Key& key) {
  std::shared_ptr<x509_st> leaf(X509_new(), X509_free);
  MESH_CHECK(leaf != nullptr, "out of memory");
  std::uint64_t serial = 0;
  bool good = RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial) == 1;
  good = good && X509_set_version(leaf.get(), X509_VERSION_3) == 1;
  good = good && ASN1_INTEGER_set_uint64(X509_get_serialNumber(leaf.get()), serial >> 1 | 1) == 1;
  good = good && ASN1_TIME_set_string_X509(X509_getm_notBefore(leaf.get()), "20000101000000Z") == 1;
  good = good && ASN1_TIME_set_string_X509(X509_getm_notAfter(leaf.get()), "99991231235959Z") == 1;
  X509_NAME* name = X509_get_subject_name(leaf.get());
  good = good && X509_NAME_add_entry_by_txt(
                     name, "CN", MBSTRING_ASC,
                     reinterpret_cast<const unsigned char*>("toolkit-mesh node"), -1, -1, 0) == 1;
  good = good && X509_set_issuer_name(leaf.get(), name) == 1;
  good = good && X509_set_pubkey(leaf.get(), key.native()) == 1;
  good = good && X509_sign(leaf.get(), key.native(), nullptr) > 0;
  MESH_CHECK(good, "OpenSSL cannot make a certificate");
  return leaf;
}

}  // namespace

NodeIdentity::NodeIdentity(Ed25519Key key)
    : key_(std::move(key)),
      id_(peer_id_of(key_.public_key_der())),
      certificate_(make_certificate(key_)) {}

Result<NodeIdentity> load_or_create_identity(const std::string& directory) {
  std::error_code failure;
  if (!std::filesystem::exists(directory, failure)) {
    const std::filesystem::path parent = std::filesystem::path(directory).parent_path();
    if (!parent.empty()) std::filesystem::create_directories(parent, failure);
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
      return Error(Code::kUnavailable, fmt::format("cannot make the directory {}: {}", directory,
                                                   std::strerror(errno)));
  }
  const std::string path = (std::filesystem::path(directory) / "node.key").string();
  Result<std::string> text = read_secret_file(path, limits::kKeyFileBytes);
  if (!text.ok() && text.error().code == Code::kNotFound) {
    const Result<void> made = create_secret_file(path, Ed25519Key::generate().pem());
    // Another process may have made it meanwhile: then its key is the node's key.
    if (!made.ok() && made.error().code != Code::kInvalidArgument) return made.error();
    text = read_secret_file(path, limits::kKeyFileBytes);
  }
  if (!text.ok()) return text.error().with_context("node key");
  Result<Ed25519Key> key = Ed25519Key::from_pem(*text);
  if (!key.ok())
    return Error(key.error().code,
                 fmt::format("the node key {} cannot be used: {}; restore it from a backup, or "
                             "remove it to become a new node",
                             path, key.error().message));
  return NodeIdentity(std::move(key).value());
}

PeerId peer_id_of(std::string_view public_key_der) {
  return PeerId::from_bytes(sha256(public_key_der)).value();
}

bool verify(std::string_view public_key_der, std::string_view bytes, std::string_view signature) {
  const Result<std::string> raw = raw_public_key(public_key_der);
  return raw.ok() && verify_raw(*raw, bytes, signature);
}

}  // namespace mesh::net
