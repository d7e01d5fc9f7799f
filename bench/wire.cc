// What a row costs on the wire: bytes of a STEP through a real link, counted between its ends.

#include <CLI/CLI.hpp>
#include <chrono>
#include <future>

#include "bench/support/hop_time.h"
#include "bench/support/link_end.h"
#include "bench/support/relay.h"
#include "bench/support/report.h"
#include "wire/frame.h"

namespace mesh::bench {
namespace {

constexpr std::size_t kRowBytes = 1024 * 2;  // hidden 1024, bf16
constexpr std::size_t kOverheadBar = 64;
constexpr std::size_t kFrames = 16;
constexpr std::chrono::seconds kPatience{30};

// Sends one frame and waits until it has arrived, so that no two share a TLS record.
Result<void> send_one(LinkEnd& from, LinkEnd& to, std::size_t rows) {
  std::promise<bool> arrived;
  run_on(to.loop(), [&] {
    to.set_receiver([&](const env::Frame& frame) {
      arrived.set_value(wire::decode_step(frame, kRowBytes).ok());
    });
  });
  Result<void> sent;
  run_on(from.loop(), [&] {
    sent = from.transport().send(to.id(), wire::encode(decode_step_of(rows, kRowBytes)));
  });
  MESH_RETURN_IF_ERROR(sent);
  auto answer = arrived.get_future();
  const bool came = answer.wait_for(kPatience) == std::future_status::ready;
  run_on(to.loop(), [&] { to.set_receiver({}); });
  if (!came || !answer.get()) return Error(Code::kUnavailable, "a STEP did not arrive whole");
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("bench_wire: bytes of one residual row on the wire");
  ReportOptions report_options;
  add_options(app, report_options);
  CLI11_PARSE(app, argc, argv);
  Report report("wire", report_options);
  auto a = LinkEnd::start(), b = LinkEnd::start();
  if (!a.ok() || !b.ok()) return give_up("no port on loopback");
  auto relay = Relay::start((*b)->address());
  if (!relay.ok()) return give_up(relay.error().message);
  if (const auto up = link(**a, **b, (*relay)->address()); !up.ok())
    return give_up(up.error().message);
  for (const std::size_t rows : {1u, 8u, 64u, 512u}) {
    if (const auto warm = send_one(**a, **b, rows); !warm.ok())
      return give_up(warm.error().message);
    const std::uint64_t before = (*relay)->bytes_forward();
    for (std::size_t i = 0; i < kFrames; ++i)
      if (const auto sent = send_one(**a, **b, rows); !sent.ok())
        return give_up(sent.error().message);
    const double bytes = static_cast<double>((*relay)->bytes_forward() - before) / kFrames;
    const double frame = static_cast<double>(
        wire::encode_frame(wire::encode(decode_step_of(rows, kRowBytes))).size());
    const double per_row = bytes / static_cast<double>(rows);
    const std::string name = fmt::format("batch {}", rows);
    if (rows >= 8)
      report.at_most(name + ", bytes per row and hop", per_row, kRowBytes + kOverheadBar, "B");
    else
      report.value(name + ", bytes per row and hop", per_row, "B");
    report.value(name + ", of it beside the residual row", per_row - kRowBytes, "B");
    report.value(name + ", of it TLS records", (bytes - frame) / static_cast<double>(rows), "B");
  }
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
