#include "net/ed25519.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>

#include "base/check.h"

namespace mesh::net {
namespace {

// SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 bytes } (RFC 8410, section 4)
constexpr std::string_view kDerPrefix("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 12);

const unsigned char* as_unsigned(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}
unsigned char* as_unsigned(std::string& text) {
  return reinterpret_cast<unsigned char*>(text.data());
}

struct ContextFree {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(BIO* bio) const { BIO_free(bio); }
};
template <typename T>
using Owned = std::unique_ptr<T, ContextFree>;

std::shared_ptr<evp_pkey_st> own(EVP_PKEY* key) {
  return std::shared_ptr<evp_pkey_st>(key, EVP_PKEY_free);
}

}  // namespace

Ed25519Key Ed25519Key::generate() {
  EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  MESH_CHECK(key != nullptr, "OpenSSL cannot make an ed25519 key");
  return Ed25519Key(own(key));
}

Result<Ed25519Key> Ed25519Key::from_seed(std::string_view seed) {
  if (seed.size() != kEd25519KeyBytes)
    return Error(Code::kInvalidArgument,
                 fmt::format("an ed25519 key has {} bytes, not {}", kEd25519KeyBytes, seed.size()));
  EVP_PKEY* key =
      EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, as_unsigned(seed), seed.size());
  MESH_CHECK(key != nullptr, "OpenSSL refuses an ed25519 seed");
  return Ed25519Key(own(key));
}

Result<Ed25519Key> Ed25519Key::from_pem(std::string_view text) {
  const Owned<BIO> bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  MESH_CHECK(bio != nullptr, "out of memory");
  // An empty pass phrase, else OpenSSL would ask for one on the terminal.
  char no_phrase[] = "";
  auto key = own(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, no_phrase));
  if (!key) return Error(Code::kCorrupt, "no private key in PEM form is in it");
  if (EVP_PKEY_get_id(key.get()) != EVP_PKEY_ED25519)
    return Error(Code::kUnsupported, "its key is not an ed25519 key");
  return Ed25519Key(std::move(key));
}

std::string Ed25519Key::seed() const {
  std::string out(kEd25519KeyBytes, '\0');
  std::size_t size = out.size();
  const int good = EVP_PKEY_get_raw_private_key(key_.get(), as_unsigned(out), &size);
  MESH_CHECK(good == 1 && size == out.size(), "seed of {} bytes", size);
  return out;
}

std::string Ed25519Key::pem() const {
  const Owned<BIO> bio(BIO_new(BIO_s_mem()));
  MESH_CHECK(bio != nullptr, "out of memory");
  const int good =
      PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  MESH_CHECK(good == 1 && size > 0, "OpenSSL cannot write a key");
  return std::string(data, static_cast<std::size_t>(size));
}

std::string Ed25519Key::public_key() const {
  std::string out(kEd25519KeyBytes, '\0');
  std::size_t size = out.size();
  const int good = EVP_PKEY_get_raw_public_key(key_.get(), as_unsigned(out), &size);
  MESH_CHECK(good == 1 && size == out.size(), "public key of {} bytes", size);
  return out;
}

std::string Ed25519Key::public_key_der() const {
  return std::string(kDerPrefix) + public_key();
}

std::string Ed25519Key::sign(std::string_view bytes) const {
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  std::string out(kEd25519SignatureBytes, '\0');
  std::size_t size = out.size();
  const bool good =
      context && EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_.get()) == 1 &&
      EVP_DigestSign(context.get(), as_unsigned(out), &size, as_unsigned(bytes), bytes.size()) == 1;
  MESH_CHECK(good && size == out.size(), "OpenSSL cannot sign {} bytes", bytes.size());
  return out;
}

bool verify_raw(std::string_view public_key, std::string_view bytes, std::string_view signature) {
  if (public_key.size() != kEd25519KeyBytes || signature.size() != kEd25519SignatureBytes)
    return false;
  const auto key = own(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr,
                                                   as_unsigned(public_key), public_key.size()));
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  return key && context &&
         EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), as_unsigned(signature), signature.size(),
                          as_unsigned(bytes), bytes.size()) == 1;
}

Result<std::string> raw_public_key(std::string_view public_key_der) {
  if (public_key_der.size() != kDerPrefix.size() + kEd25519KeyBytes ||
      public_key_der.substr(0, kDerPrefix.size()) != kDerPrefix)
    return Error(Code::kCorrupt,
                 fmt::format("{} bytes that are not the public key of a node (ed25519, DER)",
                             public_key_der.size()));
  return std::string(public_key_der.substr(kDerPrefix.size()));
}

std::string sha256(std::string_view bytes) {
  std::string out(SHA256_DIGEST_LENGTH, '\0');
  SHA256(as_unsigned(bytes), bytes.size(), as_unsigned(out));
  return out;
}

}  // namespace mesh::net
