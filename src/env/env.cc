#include <charconv>

#include "env/transport.h"

namespace mesh::env {

std::string Address::to_string() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

Result<Address> Address::parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  auto wrong = [&](std::string_view why) {
    return Error(
        Code::kInvalidArgument,
        fmt::format("'{}' is not an address: {}; write HOST:PORT or [IPV6]:PORT", text, why));
  };
  if (colon == std::string_view::npos) return wrong("the port is missing");
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return wrong("an IPv6 host needs brackets");
  if (host.empty()) return wrong("the host is missing");
  std::uint32_t port = 0;
  const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (digits.empty() || ec != std::errc() || end != digits.data() + digits.size() || port > 65535)
    return wrong("the port must be a number from 0 to 65535");
  return Address{std::string(host), static_cast<std::uint16_t>(port)};
}

}  // namespace mesh::env
