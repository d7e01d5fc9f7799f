#include "cli/http_client.h"

#include <curl/curl.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/api_key.h"
#include "cli/data_dir.h"
#include "cli/environment.h"

namespace mesh::cli {
namespace {

struct Transfer {
  CURL* curl = nullptr;
  HttpReply reply;
  const HttpCall* call = nullptr;
  bool stopped = false;
};

constexpr std::size_t kReplyBytes = 64u << 20;

std::size_t take(char* data, std::size_t size, std::size_t count, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  const std::size_t bytes = size * count;
  long status = 0;
  curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status == 200 && transfer.call->on_body) {
    transfer.stopped = !transfer.call->on_body({data, bytes});
    return transfer.stopped ? 0 : bytes;
  }
  if (transfer.reply.body.size() + bytes > kReplyBytes) return 0;
  transfer.reply.body.append(data, bytes);
  return bytes;
}

// Called about every second, and more often while bytes flow.
int check_on(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  if (transfer.call->go_on && !transfer.call->go_on()) transfer.stopped = true;
  return transfer.stopped ? 1 : 0;
}

Result<std::string> key_header(const TargetOptions& target, const std::string& url) {
  MESH_ASSIGN_OR_RETURN(const std::string key,
                        client_api_key(target, url, environment("TOOLKIT_MESH_API_KEY"),
                                       environment("OPENAI_API_KEY")));
  return key.empty() ? key : "Authorization: Bearer " + key;
}

}  // namespace

Result<std::string> target_url(const TargetOptions& target) {
  if (!target.url.empty()) return target.url;
  if (target.port.has_value()) return fmt::format("http://127.0.0.1:{}", *target.port);
  MESH_ASSIGN_OR_RETURN(const std::string dir, data_directory(target.data_dir));
  const std::string running = running_node_url(dir);
  return running.empty() ? "http://127.0.0.1:8642" : running;
}

Result<HttpReply> http_request(const TargetOptions& target, const HttpCall& call) {
  MESH_ASSIGN_OR_RETURN(const std::string url, target_url(target));
  MESH_ASSIGN_OR_RETURN(const std::string key, key_header(target, url));
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (!curl) return Error(Code::kInternal, "libcurl does not start");
  curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
  if (!key.empty()) list = curl_slist_append(list, key.c_str());
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(list, curl_slist_free_all);
  Transfer transfer{curl.get(), {}, &call};
  curl_easy_setopt(curl.get(), CURLOPT_URL, (url + call.path).c_str());
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_CONNECTTIMEOUT_MS, 5000L);
  curl_easy_setopt(curl.get(), CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  // A stream that is alive says so every limits::kHttpStreamPing.
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_TIME, 60L);
  if (!call.on_body)
    curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, static_cast<long>(target.deadline_ms));
  if (!call.body.empty()) {
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(call.body.size()));
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, call.body.c_str());
  }
  curl_easy_setopt(curl.get(), CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFOFUNCTION, check_on);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFODATA, &transfer);
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
