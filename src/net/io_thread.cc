#include "net/io_thread.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <thread>

#include "base/check.h"

namespace mesh::net {
namespace {}  // namespace

struct IoThread::Impl {
  boost::asio::io_context context{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard{
      context.get_executor()};
  std::thread thread;

  void run() {
    try {
      context.run();
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

void IoThread::stop() {
  MESH_CHECK(!on_thread(), "the socket thread cannot wait for itself");
  impl_->context.stop();
  if (impl_->thread.joinable()) impl_->thread.join();
}

}  // namespace mesh::net
