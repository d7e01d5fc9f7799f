#include "net/tls_records.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace mesh::net {
namespace {

constexpr std::size_t kReceiveBytes = 64u << 10;

}  // namespace

// OpenSSL's source and sink of ciphertext: the two buffers of a TlsRecords.
struct RecordsBio {
  static TlsRecords& of(BIO* bio) { return *static_cast<TlsRecords*>(BIO_get_data(bio)); }

  static int write(BIO* bio, const char* bytes, std::size_t count, std::size_t* written) {
    std::vector<std::byte>& out = of(bio).out_;
    const auto* begin = reinterpret_cast<const std::byte*>(bytes);
    out.insert(out.end(), begin, begin + count);
    *written = count;
    return 1;
  }
  static int read(BIO* bio, char* into, std::size_t most, std::size_t* count) {
    TlsRecords& records = of(bio);
    BIO_clear_retry_flags(bio);
    *count = std::min(most, records.in_end_ - records.in_begin_);
    if (*count == 0) {
      BIO_set_retry_read(bio);
      return 0;
    }
    std::memcpy(into, records.in_.data() + records.in_begin_, *count);
    records.in_begin_ += *count;
    return 1;
  }
  static long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }
  static int create(BIO* bio) {
    BIO_set_init(bio, 1);
    return 1;
  }

  static BIO* make(TlsRecords& records) {
    static BIO_METHOD* const method = [] {
      BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mesh records");
      const bool good = made != nullptr && BIO_meth_set_write_ex(made, write) == 1 &&
                        BIO_meth_set_read_ex(made, read) == 1 &&
                        BIO_meth_set_ctrl(made, control) == 1 &&
                        BIO_meth_set_create(made, create) == 1;
      MESH_CHECK(good, "OpenSSL has no room for a kind of BIO");
      return made;
    }();
    BIO* bio = BIO_new(method);
    MESH_CHECK(bio != nullptr, "out of memory");
    BIO_set_data(bio, &records);
    return bio;
  }
};

void TlsRecords::Free::operator()(ssl_st* ssl) const {
  SSL_free(ssl);
}

TlsRecords::TlsRecords(ssl_ctx_st* context) : ssl_(SSL_new(context)), in_(kReceiveBytes) {
  MESH_CHECK(ssl_ != nullptr, "out of memory");
  BIO* bio = RecordsBio::make(*this);
  SSL_set_bio(ssl_.get(), bio, bio);  // takes the one reference for both
}

TlsRecords::~TlsRecords() = default;

void TlsRecords::start(bool client) {
  if (client)
    SSL_set_connect_state(ssl_.get());
  else
    SSL_set_accept_state(ssl_.get());
}

TlsRecords::Outcome TlsRecords::outcome(int result) {
  if (result > 0) return Outcome::kDone;
  if (SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ) return Outcome::kWantsInput;
  const char* text = ERR_reason_error_string(ERR_peek_last_error());
  why_ = text == nullptr ? "" : text;
  ERR_clear_error();
  return Outcome::kFailed;
}

TlsRecords::Outcome TlsRecords::handshake() {
  ERR_clear_error();
  return outcome(SSL_do_handshake(ssl_.get()));
}

TlsRecords::Outcome TlsRecords::read(std::span<std::byte> into, std::size_t& count) {
  ERR_clear_error();
  return outcome(SSL_read_ex(ssl_.get(), into.data(), into.size(), &count));
}

TlsRecords::Outcome TlsRecords::write(std::span<const std::byte> bytes) {
  ERR_clear_error();
  while (!bytes.empty()) {
    std::size_t count = 0;  // a record at a time
    if (outcome(SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &count)) != Outcome::kDone)
      return Outcome::kFailed;
    bytes = bytes.subspan(count);
  }
  return Outcome::kDone;
}

// OpenSSL wants input only when it has taken all there was.
std::span<std::byte> TlsRecords::room() {
  if (in_begin_ == in_end_) in_begin_ = in_end_ = 0;
  return std::span(in_).subspan(in_end_);
}

}  // namespace mesh::net
