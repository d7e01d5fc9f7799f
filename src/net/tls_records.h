#pragma once
// The TLS of one connection without its socket: ciphertext in and out of memory. A frame of several
// records is encrypted in one go and written by one call, and nothing but OpenSSL stands between
// a frame and the socket.

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

struct ssl_ctx_st;  // OpenSSL's SSL_CTX
struct ssl_st;      // OpenSSL's SSL

namespace mesh::net {

// Not thread-safe: it belongs to the I/O thread. Every call may leave bytes in outgoing(), also one
// that fails: an alert, which says why.
class TlsRecords {
 public:
  enum class Outcome { kDone, kWantsInput, kFailed };

  explicit TlsRecords(ssl_ctx_st* context);
  ~TlsRecords();
  TlsRecords(const TlsRecords&) = delete;
  TlsRecords& operator=(const TlsRecords&) = delete;

  void start(bool client);  // which side of the handshake this is
  Outcome handshake();
  // Decrypts up to into.size() bytes; with kDone `count` of them, at least one.
  Outcome read(std::span<std::byte> into, std::size_t& count);
  // Encrypts all of it; kWantsInput never.
  Outcome write(std::span<const std::byte> bytes);
  // After kFailed: a sentence of OpenSSL, "" when it has none.
  const std::string& why() const { return why_; }

  // Room for received ciphertext, never empty after kWantsInput; what came is told with received().
  std::span<std::byte> room();
  void received(std::size_t count) { in_end_ += count; }
  // Ciphertext to be sent, emptied by whoever has sent it.
  std::vector<std::byte>& outgoing() { return out_; }

  ssl_st* ssl() const { return ssl_.get(); }

 private:
  friend struct RecordsBio;
  struct Free {
    void operator()(ssl_st* ssl) const;
  };
  Outcome outcome(int result);

  std::unique_ptr<ssl_st, Free> ssl_;
  std::vector<std::byte> in_, out_;
  std::size_t in_begin_ = 0, in_end_ = 0;
  std::string why_;
};

}  // namespace mesh::net
