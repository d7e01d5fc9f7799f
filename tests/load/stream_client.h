#pragma once
// Many HTTP streams from one thread over raw sockets, each read as fast or as slowly as a test
// wants.

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mesh::load {

using Clock = std::chrono::steady_clock;

struct StreamOptions {
  int receive_buffer = 4096;          // SO_RCVBUF
  double bytes_per_second = 0;        // 0: as fast as they come
  std::chrono::seconds slow_for{13};  // then a slow reader takes what is left
};

// One POST whose answer is a stream of server-sent events.
class Stream {
 public:
  // `url`: "http://127.0.0.1:PORT". Connects and sends the request at once; dies (aborts the test
  // program) where loopback itself fails.
  Stream(const std::string& url, const std::string& path, const std::string& body,
         const StreamOptions& options);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int fd() const { return fd_; }
  bool slow() const { return options_.bytes_per_second > 0; }  // reads slowly at first
  bool over() const { return over_; }
  // What may be read now; called when the socket is readable and, if slow, in its own time.
  void read_some(Clock::time_point now);
  // The next moment at which a slow reader reads.
  Clock::time_point due() const { return due_; }

  const std::string& received() const { return received_; }
  std::string text() const;  // all content deltas joined
  bool done() const { return received_.find("data: [DONE]") != std::string::npos; }
  bool has_error(const std::string& code) const;
  std::chrono::duration<double> lasted() const { return ended_ - started_; }

 private:
  StreamOptions options_;
  int fd_ = -1;
  bool over_ = false;
  std::string received_;
  Clock::time_point started_, ended_, due_;
};

// Reads all of them until they are over or `deadline` has passed; whether all are over.
bool read_all(const std::vector<std::unique_ptr<Stream>>& streams, std::chrono::seconds deadline);

}  // namespace mesh::load
