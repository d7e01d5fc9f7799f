#pragma once
// The one thread that waits for sockets: peer links and the HTTP server share it.

#include <memory>

namespace boost::asio {
class io_context;
}

namespace mesh::net {

// Runs an io_context with one thread, so that its handlers need no strand. What uses the context is
// destroyed before it. A handler that throws is our bug.
class IoThread {
 public:
  IoThread();
  ~IoThread();  // stop(); what handlers still hold is released here
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  boost::asio::io_context& context();
  bool on_thread() const;
  bool stopped() const;
  // Ends the thread after the handler that runs. Not from a handler.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::net
