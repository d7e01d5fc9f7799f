#include "bench/support/hop_time.h"

#include <chrono>
#include <future>

#include "bench/support/link_end.h"
#include "bench/support/report.h"

namespace mesh::bench {
namespace {

constexpr std::size_t kWarmUp = 100;

// The frame goes from one end to the other and back. Its two ends never touch this at once: what
// one wrote, the other reads after the frame has arrived.
class Rally {
 public:
  Rally(LinkEnd& a, LinkEnd& b, const HopOptions& options) : options_(options) {
    prepare(a, b, 0);
    prepare(b, a, 1);
  }
  Result<std::vector<double>> play() {
    const auto patience =
        std::chrono::seconds(30) + options_.pause * static_cast<std::int64_t>(2 * options_.samples);
    ends_[0].end->loop().post([this] { send(ends_[0]); });
    auto finished = done_.get_future();
    if (finished.wait_for(patience) != std::future_status::ready)
      return Error(Code::kUnavailable, "a link on loopback lost a frame");
    return std::move(times_);
  }

 private:
  struct Side {
    LinkEnd* end = nullptr;
    PeerId peer;
    wire::StepMessage message;
    env::TimerHandle pause;
  };
  void prepare(LinkEnd& end, LinkEnd& other, std::size_t index) {
    Side& side = ends_[index];
    side.end = &end;
    side.peer = other.id();
    side.message = decode_step_of(options_.rows, options_.row_bytes);
    end.set_receiver([this, &side](env::Frame frame) { received(side, frame); });
  }
  void send(Side& side) {
    sent_ = now();
    (void)side.end->transport().send(side.peer, wire::encode(side.message)).ok();
  }
  void received(Side& side, const env::Frame& frame) {
    const auto step = wire::decode_step(frame, options_.row_bytes);
    const Duration took = now() - sent_;
    if (!step.ok()) return;
    if (++seen_ > kWarmUp) times_.push_back(to_seconds(took) * 1e6);
    if (times_.size() == options_.samples) return done_.set_value();
    side.pause = side.end->loop().after(options_.pause, [this, &side] { send(side); });
  }

  HopOptions options_;
  Side ends_[2];
  Instant sent_;
  std::size_t seen_ = 0;
  std::vector<double> times_;
  std::promise<void> done_;
};

}  // namespace

wire::StepMessage decode_step_of(std::size_t rows, std::size_t row_bytes) {
  wire::StepMessage message;
  for (std::size_t i = 0; i < rows; ++i)
    message.rows.push_back({SequenceId{1 + i}, 500, static_cast<TokenId>(i)});
  message.hidden = Buffer(rows * row_bytes);
  for (std::size_t i = 0; i < message.hidden.size(); ++i)
    message.hidden.data()[i] = static_cast<std::byte>(i * 31);
  return message;
}

Result<std::vector<double>> hop_times(const HopOptions& options) {
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<LinkEnd> a, LinkEnd::start());
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<LinkEnd> b, LinkEnd::start());
  Rally rally(*a, *b, options);
  MESH_RETURN_IF_ERROR(link(*a, *b, b->address()));
  auto times = rally.play();
  // Timers and receivers name the rally, so the loops end before it does.
  a->loop().stop();
  b->loop().stop();
  return times;
}

}  // namespace mesh::bench
