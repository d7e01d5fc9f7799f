#include "net/io_thread.h"

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <exception>
#include <thread>

#include "base/check.h"

namespace mesh::net {
namespace {

// A control loop takes some 50 us from the end of a step to the frame that it gives.
constexpr std::chrono::microseconds kLookout{100};

}  // namespace

struct IoThread::Impl {
  boost::asio::io_context context{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard{
      context.get_executor()};
  std::atomic<bool> expecting{false};
  std::thread thread;

  // Until there is something to do. Whoever else wants the core has it.
  void look_out() {
    const auto until = std::chrono::steady_clock::now() + kLookout;
    while (context.poll() == 0 && !context.stopped() && std::chrono::steady_clock::now() < until)
      std::this_thread::yield();
  }

  void run() {
    try {
      while (context.run_one() > 0) {
        if (expecting.exchange(false)) look_out();
      }
    } catch (const std::exception& thrown) {
      MESH_CHECK(false, "a socket handler threw: {}", thrown.what());
    }
  }
};

IoThread::IoThread() : impl_(std::make_unique<Impl>()) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

IoThread::~IoThread() {
  stop();
}

boost::asio::io_context& IoThread::context() {
  return impl_->context;
}

bool IoThread::on_thread() const {
  return impl_->thread.get_id() == std::this_thread::get_id();
}

bool IoThread::stopped() const {
  return impl_->context.stopped();
}

void IoThread::expect() {
  if (!impl_->expecting.exchange(true)) boost::asio::post(impl_->context, [] {});
}

void IoThread::stop() {
  MESH_CHECK(!on_thread(), "the socket thread cannot wait for itself");
  impl_->context.stop();
  if (impl_->thread.joinable()) impl_->thread.join();
}

}  // namespace mesh::net
