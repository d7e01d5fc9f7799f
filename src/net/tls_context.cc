#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "base/check.h"
#include "base/limits.h"
#include "net/tls_link.h"

namespace mesh::net {
namespace {

constexpr unsigned char kProtocols[] = {6, 'm', 'e', 's', 'h', '/', '1'};

// Replaces the verification of chains, names and dates, none of which mean anything here.
int verify_leaf(X509_STORE_CTX* store, void*) {
  X509* leaf = X509_STORE_CTX_get0_cert(store);
  EVP_PKEY* key = leaf == nullptr ? nullptr : X509_get0_pubkey(leaf);
  const bool good =
      key != nullptr && EVP_PKEY_get_id(key) == EVP_PKEY_ED25519 && X509_verify(leaf, key) == 1;
  if (!good) ERR_clear_error();
  X509_STORE_CTX_set_error(store, good ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
  return good ? 1 : 0;
}

int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_size,
                    const unsigned char* offered, unsigned offered_size, void*) {
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kProtocols, sizeof kProtocols, offered,
                            offered_size) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

std::shared_ptr<ssl_ctx_st> make_tls_context(const NodeIdentity& identity) {
  std::shared_ptr<ssl_ctx_st> context(SSL_CTX_new(TLS_method()), SSL_CTX_free);
  MESH_CHECK(context != nullptr, "OpenSSL cannot make a TLS context");
  SSL_CTX* raw = context.get();
  bool good = SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) == 1;
  good = good && SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) == 1;
  good = good && SSL_CTX_set1_sigalgs_list(raw, "ed25519") == 1;
  good = good && SSL_CTX_set1_client_sigalgs_list(raw, "ed25519") == 1;
  good = good && SSL_CTX_set1_groups_list(raw, "X25519:P-256") == 1;
  good = good && SSL_CTX_set_num_tickets(raw, 0) == 1;
  good = good && SSL_CTX_set_max_early_data(raw, 0) == 1;
  good = good && SSL_CTX_set_alpn_protos(raw, kProtocols, sizeof kProtocols) == 0;
  good = good && SSL_CTX_use_certificate(raw, identity.certificate()) == 1;
  good = good && SSL_CTX_use_PrivateKey(raw, identity.key().native()) == 1;
  MESH_CHECK(good, "OpenSSL refuses the settings of the mesh");
  SSL_CTX_set_options(raw, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_cert_list(raw, limits::kCertificateChainBytes);
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(raw, verify_leaf, nullptr);
  SSL_CTX_set_alpn_select_cb(raw, choose_protocol, nullptr);
  return context;
}

}  // namespace mesh::net
