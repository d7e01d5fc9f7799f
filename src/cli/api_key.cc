#include "cli/api_key.h"

#include <array>
#include <fstream>

#include "base/bytes.h"
#include "base/limits.h"
#include "cli/data_dir.h"
#include "net/secret_file.h"

namespace mesh::cli {
namespace {

constexpr std::size_t kKeyBytes = 20;  // 160 random bits

Result<std::string> key_in(const std::string& path) {
  std::ifstream file(path);
  std::string key;
  if (!(file >> key))
    return Error(Code::kInvalidArgument, fmt::format("--api-key-file: no API key in {}", path));
  return key;
}

std::string first_word(const std::string& text) {
  return text.substr(0, text.find_first_of(" \t\r\n"));
}

Result<ApiKey> kept_key(const std::string& data_dir, env::Random& random) {
  const std::string path = data_dir + "/api.key";
  Result<std::string> kept = net::read_secret_file(path, limits::kKeyFileBytes);
  if (!kept.ok() && kept.error().code == Code::kNotFound) {
    std::array<std::byte, kKeyBytes> bits;
    random.fill(bits);
    std::string key = "sk-mesh-";
    for (const std::byte b : bits) key += fmt::format("{:02x}", static_cast<unsigned>(b));
    const Result<void> made = net::create_secret_file(path, key + "\n");
    if (made.ok()) return ApiKey{key, path, true};
    // Another node of this directory may have been quicker.
    if (made.error().code != Code::kInvalidArgument) return made.error();
    kept = net::read_secret_file(path, limits::kKeyFileBytes);
  }
  if (!kept.ok()) return kept.error();
  const std::string key = first_word(*kept);
  if (key.empty()) return Error(Code::kCorrupt, fmt::format("no API key in {}", path));
  return ApiKey{key, path, false};
}

// Whether a URL means this machine.
bool is_local(const std::string& url) {
  const std::size_t scheme = url.find("://");
  std::string host = scheme == std::string::npos ? url : url.substr(scheme + 3);
  if (!host.empty() && host.front() == '[')
    host = host.substr(1, host.find(']') == std::string::npos ? 0 : host.find(']') - 1);
  else
    host = host.substr(0, host.find_first_of(":/"));
  return is_loopback(host) || host == "0.0.0.0" || host == "::";
}

}  // namespace

bool is_loopback(const std::string& host) {
  // A name may begin with these digits, too.
  const bool numbers = host.find_first_not_of("0123456789.") == std::string::npos;
  return host == "localhost" || host == "::1" || (numbers && host.rfind("127.", 0) == 0);
}

Result<ApiKey> node_api_key(const NodeOptions& options, const std::string& data_dir,
                            const std::string& variable, env::Random& random) {
  const bool file = !options.api_key_file.empty();
  if (!variable.empty() && !(file && options.api_key_file_origin == Origin::kFlag))
    return ApiKey{variable, "TOOLKIT_MESH_API_KEY", false};
  if (file) {
    MESH_ASSIGN_OR_RETURN(std::string key, key_in(options.api_key_file));
    return ApiKey{std::move(key), options.api_key_file, false};
  }
  if (is_loopback(options.host)) return ApiKey{};
  return kept_key(data_dir, random);
}

Result<std::string> client_api_key(const TargetOptions& target, const std::string& url,
                                   const std::string& variable,
                                   const std::string& openai_variable) {
  const bool file = !target.api_key_file.empty();
  if (file && target.api_key_file_origin == Origin::kFlag) return key_in(target.api_key_file);
  if (target.openai) return openai_variable;
  if (!variable.empty()) return variable;
  if (file) return key_in(target.api_key_file);
  if (!is_local(url)) return std::string();
  const Result<std::string> dir = data_directory(target.data_dir);
  if (!dir.ok()) return std::string();
  const Result<std::string> kept = net::read_secret_file(*dir + "/api.key", limits::kKeyFileBytes);
  return kept.ok() ? first_word(*kept) : std::string();
}

}  // namespace mesh::cli
