#include "cli/http_client.h"

#include <curl/curl.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/data_dir.h"

namespace mesh::cli {
namespace {

struct Transfer {
  CURL* curl = nullptr;
  HttpReply reply;
  const std::function<bool(std::string_view)>* on_body = nullptr;
  bool stopped = false;
};

constexpr std::size_t kReplyBytes = 64u << 20;

std::size_t take(char* data, std::size_t size, std::size_t count, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  const std::size_t bytes = size * count;
  long status = 0;
  curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status == 200 && *transfer.on_body) {
    transfer.stopped = !(*transfer.on_body)({data, bytes});
    return transfer.stopped ? 0 : bytes;
  }
  if (transfer.reply.body.size() + bytes > kReplyBytes) return 0;
  transfer.reply.body.append(data, bytes);
  return bytes;
}

Result<std::string> key_header(const TargetOptions& target) {
  if (target.api_key_file.empty()) return std::string();
  std::ifstream file(target.api_key_file);
  std::string key;
  if (!(file >> key))
    return Error(Code::kInvalidArgument,
                 fmt::format("cannot read an API key from {}", target.api_key_file));
  return "Authorization: Bearer " + key;
}

}  // namespace

Result<std::string> target_url(const TargetOptions& target) {
  if (!target.url.empty()) {
    std::string url =
        target.url.find("://") == std::string::npos ? "http://" + target.url : target.url;
    while (!url.empty() && url.back() == '/') url.pop_back();
    return url;
  }
  if (target.port.has_value()) return fmt::format("http://127.0.0.1:{}", *target.port);
  MESH_ASSIGN_OR_RETURN(const std::string dir, data_directory(target.data_dir));
  const std::string running = running_node_url(dir);
  return running.empty() ? "http://127.0.0.1:8642" : running;
}

Result<HttpReply> http_request(const TargetOptions& target, const std::string& path,
                               const std::string& body,
                               const std::function<bool(std::string_view)>& on_body) {
  MESH_ASSIGN_OR_RETURN(const std::string url, target_url(target));
  MESH_ASSIGN_OR_RETURN(const std::string key, key_header(target));
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (!curl) return Error(Code::kInternal, "libcurl does not start");
  curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
  if (!key.empty()) list = curl_slist_append(list, key.c_str());
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(list, curl_slist_free_all);
  Transfer transfer{curl.get(), {}, &on_body};
  curl_easy_setopt(curl.get(), CURLOPT_URL, (url + path).c_str());
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_CONNECTTIMEOUT_MS, 5000L);
  curl_easy_setopt(curl.get(), CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  // A stream that is alive says so every limits::kHttpStreamPing.
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_TIME, 60L);
  if (!on_body) curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, 30'000L);
  if (!body.empty()) {
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.c_str());
  }
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, take);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &transfer);
  const CURLcode code = curl_easy_perform(curl.get());
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  transfer.reply.status = static_cast<int>(status);
  if (code == CURLE_OK || transfer.stopped) return std::move(transfer.reply);
  if (code == CURLE_COULDNT_CONNECT)
    return Error(Code::kUnavailable,
                 fmt::format("no node answers at {}; start one with: toolkit-mesh run", url));
  return Error(Code::kUnavailable, fmt::format("{}: {}", url, curl_easy_strerror(code)));
}

std::string error_sentence(const HttpReply& reply) {
  if (reply.status == 401)
    return "this node wants an API key: give --api-key-file FILE with the key that it was started "
           "with";
  const nlohmann::json body = nlohmann::json::parse(reply.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_object() &&
      body["error"].contains("message") && body["error"]["message"].is_string())
    return body["error"]["message"].get<std::string>();
  return fmt::format("HTTP {}: {}", reply.status, reply.body.substr(0, 200));
}

}  // namespace mesh::cli
