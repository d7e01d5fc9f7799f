#include "api/http_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

namespace mesh::api {
namespace {

struct Reason {
  int status;
  std::string_view text;
};

constexpr Reason kReasons[] = {
    {200, "OK"},
    {204, "No Content"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {413, "Content Too Large"},
    {417, "Expectation Failed"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {499, "Client Closed Request"},
    {500, "Internal Server Error"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
};

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (lower(c) >= 'a' && lower(c) <= 'f') return lower(c) - 'a' + 10;
  return -1;
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
  const auto put = [&out](std::string_view text) {
    for (char c : text) out.push_back(static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c);
  };
  put(name);
  out += ": ";
  put(value);
  out += "\r\n";
}

// IMF-fixdate (RFC 9110 section 5.6.7), independent of the locale.
std::string http_date(std::int64_t unix_seconds) {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t when = static_cast<std::time_t>(unix_seconds);
  std::tm utc{};
  if (gmtime_r(&when, &utc) == nullptr) return "Thu, 01 Jan 1970 00:00:00 GMT";
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[utc.tm_wday], utc.tm_mday,
                     kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

}  // namespace

std::string_view reason_phrase(int status) {
  for (const Reason& reason : kReasons)
    if (reason.status == status) return reason.text;
  return "Unknown";
}

std::string response_head(const ResponseHead& head) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", head.status, reason_phrase(head.status));
  append_header(out, "Date", http_date(head.unix_seconds));
  append_header(out, "Server", "toolkit-mesh");
  if (head.headers != nullptr)
    for (const auto& [name, value] : *head.headers) append_header(out, name, value);
  if (head.body == BodyKind::kLength)
    append_header(out, "Content-Length", std::to_string(head.length));
  if (head.body == BodyKind::kChunked) append_header(out, "Transfer-Encoding", "chunked");
  if (!head.keep_alive)
    append_header(out, "Connection", "close");
  else if (head.http10)
    append_header(out, "Connection", "keep-alive");
  out += "\r\n";
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), lower);
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool equals_ignore_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return lower(x) == lower(y); });
}

Target split_target(std::string_view target) {
  for (std::string_view scheme : {"http://", "https://"}) {
    if (!equals_ignore_case(target.substr(0, scheme.size()), scheme)) continue;
    const std::size_t slash = target.find_first_of("/?", scheme.size());
    target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
    break;
  }
  Target out;
  const std::size_t question = target.find('?');
  const std::string_view raw = target.substr(0, question);
  if (question != std::string_view::npos) out.query = std::string(target.substr(question + 1));
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '%') {
      out.path.push_back(raw[i]);
      continue;
    }
    const int high = i + 2 < raw.size() ? hex_digit(raw[i + 1]) : -1;
    const int low = i + 2 < raw.size() ? hex_digit(raw[i + 2]) : -1;
    if (high < 0 || low < 0) {
      out.path = std::string(raw);
      return out;
    }
    out.path.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

std::string host_without_port(std::string_view host) {
  host = trim(host);
  if (!host.empty() && host.front() == '[') {
    const std::size_t end = host.find(']');
    return std::string(end == std::string_view::npos ? host.substr(1) : host.substr(1, end - 1));
  }
  const std::size_t colon = host.find(':');
  if (colon != std::string_view::npos && host.find(':', colon + 1) != std::string_view::npos)
    return std::string(host);  // a bare IPv6 address
  return std::string(host.substr(0, colon));
}

bool is_loopback_host(std::string_view host) {
  const std::string name = to_lower(host_without_port(host));
  if (name == "localhost" || name == "::1") return true;
  if (name.rfind("127.", 0) != 0) return false;
  // Digits and dots only, so that "127.evil.example" is not taken for an address.
  int dots = 0;
  for (char c : name) {
    if (c == '.')
      ++dots;
    else if (c < '0' || c > '9')
      return false;
  }
  return dots == 3;
}

}  // namespace mesh::api
