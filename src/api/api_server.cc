#include "api/api_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <variant>

#include "api/chat_sink.h"
#include "api/openai_types.h"
#include "api/page.h"
#include "api/status_json.h"
#include "base/bytes.h"
#include "base/random.h"

namespace mesh::api {
namespace {

constexpr std::string_view kModelsPrefix = "/v1/models/";

ApiError make_error(int status, std::string type, std::string code, std::string message) {
  ApiError error;
  error.status = status;
  error.type = std::move(type);
  error.code = std::move(code);
  error.message = std::move(message);
  return error;
}

// Answers which the HTTP layer gives by itself, in the shape of all other errors.
HttpResponse transport_error(int status, std::string_view why) {
  ApiError error = make_error(status, "invalid_request_error", "", std::string(why) + ".");
  if (status == 413) error.type = error.code = "request_too_large";
  if (status == 500) error.type = error.code = "server_error";
  if (status == 408) error.code = "request_timeout";
  if (status == 503) {
    error.type = "unavailable_error";
    error.code = "too_many_connections";
    error.retry_after_s = 1;
  }
  return error_response(error, {});
}

// Takes the same time wherever the texts differ, so that a key cannot be guessed byte by byte.
bool same_secret(std::string_view given, std::string_view secret) {
  unsigned difference = given.size() == secret.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i)
    difference |= static_cast<unsigned char>(given[i]) ^
                  static_cast<unsigned char>(secret[i % secret.size()]);
  return difference == 0;
}

std::string_view bearer_token(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (!equals_ignore_case(authorization.substr(0, kScheme.size()), kScheme)) return {};
  return trim(authorization.substr(kScheme.size()));
}

std::string etag_of(std::string_view text) {
  return "\"" + to_hex(fnv1a64(text)) + "\"";
}

// Routes that clients know from elsewhere; a sentence helps more than "no such route".
constexpr std::string_view kNotBuiltRoutes[] = {
    "/v1/completions", "/v1/responses",    "/v1/messages",
    "/v1/embeddings",  "/v1/audio/speech", "/v1/images/generations",
    "/v1/files",       "/v1/batches",      "/v1/rerank",
    "/metrics",        "/openapi.json",    "/tokenize",
    "/detokenize",     "/apply-template",  "/api/chat",
    "/api/generate",   "/api/tags",        "/api/embed",
    "/v1/moderations"};

}  // namespace

class ApiServer::Routes {
 public:
  Routes(ApiWorld world, ApiOptions given)
      : options(std::move(given)),
        world_(world),
        started_(world.clock.unix_milliseconds() / 1000),
        loopback_(is_loopback_host(options.host)) {}

  void handle(HttpRequest request, const HttpResponder& responder);

  const ApiOptions options;
  bool loopback() const { return loopback_; }

 private:
  // One request on its way through the checks.
  struct Call {
    HttpRequest request;
    HttpResponder responder;
    std::string id;       // "req-…", 32 hexadecimal digits behind it
    HttpHeaders headers;  // of whatever answer

    void json(int status, std::string body) const {
      HttpHeaders all = headers;
      all.emplace_back("Content-Type", "application/json; charset=utf-8");
      all.emplace_back("Cache-Control", "no-store");
      responder.send({status, std::move(all), std::move(body)});
    }
    void fail(const ApiError& error) const { responder.send(error_response(error, headers)); }
  };
  using Action = void (Routes::*)(Call&);
  struct Route {
    std::string_view path;
    std::string_view methods;  // "GET, HEAD" or "POST"
    bool open;                 // needs no key
    Action action;
  };
  static const std::vector<Route>& table();
  static const Route* find(std::string_view path);

  bool admit_origin(Call& call) const;
  bool admit_key(const Call& call) const;
  void not_found(const Call& call) const;
  void preflight(Call& call, const Route* route) const;
  std::string draw_id();

  void chat(Call& call);
  void models(Call& call) { call.json(200, models_json(world_.gateway.status(), started_)); }
  void model(Call& call);
  void health(Call& call) { call.json(200, R"({"status":"ok"})"); }
  void ready(Call& call);
  void status(Call& call) { call.json(200, mesh_status_json(world_.gateway.status())); }
  void version(Call& call) { call.json(200, version_json(world_.gateway.status())); }
  void page(Call& call);

  const ApiWorld world_;
  const std::int64_t started_;  // "created" of the model, seconds
  const bool loopback_;
};

const std::vector<ApiServer::Routes::Route>& ApiServer::Routes::table() {
  static const std::vector<Route> kTable = {
      {"/v1/chat/completions", "POST", false, &Routes::chat},
      {"/chat/completions", "POST", false, &Routes::chat},
      {"/v1/models", "GET, HEAD", false, &Routes::models},
      {"/models", "GET, HEAD", false, &Routes::models},
      {"/health", "GET, HEAD", true, &Routes::health},
      {"/v1/health", "GET, HEAD", true, &Routes::health},
      {"/ready", "GET, HEAD", true, &Routes::ready},
      {"/mesh/status", "GET, HEAD", false, &Routes::status},
      {"/version", "GET, HEAD", false, &Routes::version},
      {"/", "GET, HEAD", true, &Routes::page},
      {"/index.html", "GET, HEAD", true, &Routes::page},
      {"/app.js", "GET, HEAD", true, &Routes::page},
      {"/style.css", "GET, HEAD", true, &Routes::page},
  };
  return kTable;
}

const ApiServer::Routes::Route* ApiServer::Routes::find(std::string_view path) {
  static const Route kModel = {kModelsPrefix, "GET, HEAD", false, &Routes::model};
  for (const Route& route : table())
    if (route.path == path) return &route;
  // Model names may hold slashes: all the rest of the path is the name.
  if (path.size() > kModelsPrefix.size() && path.substr(0, kModelsPrefix.size()) == kModelsPrefix)
    return &kModel;
  return nullptr;
}

std::string ApiServer::Routes::draw_id() {
  std::array<std::byte, 16> bytes{};
  world_.random.fill(bytes);
  return to_hex(bytes);
}

void ApiServer::Routes::handle(HttpRequest request, const HttpResponder& responder) {
  Call call{std::move(request), responder, "req-" + draw_id(), {}};
  call.headers.emplace_back("x-request-id", call.id);
  call.headers.emplace_back("X-Content-Type-Options", "nosniff");
  world_.events.debug("api.request", {{"id", call.id},
                                      {"method", call.request.method},
                                      {"path", call.request.path},
                                      {"remote", call.request.remote}});
  if (loopback_ && call.request.headers.count("host") != 0 &&
      !is_loopback_host(call.request.header("host")))
    return call.fail(make_error(
        403, "permission_error", "host_not_allowed",
        fmt::format("This server listens on loopback only and answers to the host names localhost, "
                    "127.0.0.1 and [::1]; the request names \"{}\", as a web page that was rebound "
                    "to this machine would.",
                    std::string(call.request.header("host")))));
  if (!admit_origin(call)) return;
  const Route* route = find(call.request.path);
  if (call.request.method == "OPTIONS") return preflight(call, route);
  if ((route == nullptr || !route->open) && !admit_key(call)) return;
  if (route == nullptr) return not_found(call);
  const std::string& method = call.request.method;
  const bool allowed =
      route->methods == "POST" ? method == "POST" : method == "GET" || method == "HEAD";
  if (!allowed) {
    call.headers.emplace_back("Allow", std::string(route->methods) + ", OPTIONS");
    return call.fail(
        make_error(405, "invalid_request_error", "method_not_allowed",
                   fmt::format("{} takes {}; got {}.", call.request.path, route->methods, method)));
  }
  (this->*route->action)(call);
}

// Adds the CORS header for a permitted origin. Other origins may not change anything: a browser
// sends simple cross-site POSTs without asking, and would only hide the answer.
bool ApiServer::Routes::admit_origin(Call& call) const {
  const std::string origin(call.request.header("origin"));
  if (origin.empty()) return true;
  for (const std::string& allowed : options.cors_origins) {
    if (allowed != "*" && !equals_ignore_case(allowed, origin)) continue;
    call.headers.emplace_back("Access-Control-Allow-Origin", allowed == "*" ? "*" : origin);
    call.headers.emplace_back("Access-Control-Expose-Headers", "x-request-id, Retry-After");
    if (allowed != "*") call.headers.emplace_back("Vary", "Origin");
    return true;
  }
  const std::string& method = call.request.method;
  if (method == "GET" || method == "HEAD" || method == "OPTIONS") return true;
  const std::string host(call.request.header("host"));
  if (equals_ignore_case(origin, "http://" + host) || equals_ignore_case(origin, "https://" + host))
    return true;
  call.fail(make_error(403, "permission_error", "origin_not_allowed",
                       fmt::format("Pages of \"{}\" may not use this server; allow them with "
                                   "--cors-origins.",
                                   origin)));
  return false;
}

void ApiServer::Routes::preflight(Call& call, const Route* route) const {
  if (route == nullptr) return not_found(call);
  const std::string methods = std::string(route->methods) + ", OPTIONS";
  call.headers.emplace_back("Allow", methods);
  const bool cors = std::any_of(call.headers.begin(), call.headers.end(), [](const auto& header) {
    return header.first == "Access-Control-Allow-Origin";
  });
  if (cors) {
    call.headers.emplace_back("Access-Control-Allow-Methods", methods);
    // Named, because "*" does not cover Authorization.
    std::string wanted(call.request.header("access-control-request-headers"));
    if (wanted.empty()) wanted = "authorization, content-type, x-api-key";
    call.headers.emplace_back("Access-Control-Allow-Headers", wanted);
    call.headers.emplace_back("Access-Control-Max-Age", "600");
  }
  call.responder.send({204, call.headers, ""});
}

bool ApiServer::Routes::admit_key(const Call& call) const {
  if (options.api_key.empty()) return true;
  std::string_view given = bearer_token(call.request.header("authorization"));
  if (given.empty()) given = call.request.header("x-api-key");
  if (!given.empty() && same_secret(given, options.api_key)) return true;
  constexpr std::size_t kShown = 7;
  ApiError error = make_error(401, "authentication_error", "invalid_api_key", "");
  error.message =
      given.empty()
          ? "An API key is needed: send \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"."
          : fmt::format("The API key {}… is not valid here.", given.substr(0, kShown));
  HttpHeaders headers = call.headers;
  headers.emplace_back("WWW-Authenticate", "Bearer");
  call.responder.send(error_response(error, std::move(headers)));
  return false;
}

void ApiServer::Routes::not_found(const Call& call) const {
  const std::string& path = call.request.path;
  for (std::string_view known : kNotBuiltRoutes) {
    if (path != known) continue;
    return call.fail(make_error(404, "not_found_error", "not_built",
                                fmt::format("{} is not built yet in this server. It serves "
                                            "/v1/chat/completions and /v1/models.",
                                            path)));
  }
  call.fail(make_error(
      404, "not_found_error", "not_found",
      fmt::format("There is no {} here; see POST /v1/chat/completions, GET /v1/models and "
                  "GET /mesh/status.",
                  path)));
}

void ApiServer::Routes::model(Call& call) {
  const node::MeshStatus status = world_.gateway.status();
  const std::string name = call.request.path.substr(kModelsPrefix.size());
  if (!status.model.empty() && name == status.model)
    return call.json(200, model_json(status, started_));
  call.fail(make_error(404, "invalid_request_error", "model_not_found",
                       fmt::format("The model \"{}\" is not served here. Served: {}.", name,
                                   status.model.empty() ? "none yet" : status.model)));
}

void ApiServer::Routes::ready(Call& call) {
  const node::MeshStatus status = world_.gateway.status();
  if (!status.ready) call.headers.emplace_back("Retry-After", "2");
  call.json(status.ready ? 200 : 503, ready_json(status));
}

void ApiServer::Routes::page(Call& call) {
  if (!options.page) return not_found(call);
  const std::string& path = call.request.path;
  for (const PageFile& file : page_files()) {
    if (file.path != path && !(file.path == "/" && path == "/index.html")) continue;
    const std::string etag = etag_of(file.text);
    call.headers.emplace_back("ETag", etag);
    call.headers.emplace_back("Cache-Control", "no-cache");
    call.headers.emplace_back("Content-Security-Policy",
                              "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
                              "base-uri 'none'; form-action 'none'");
    call.headers.emplace_back("Referrer-Policy", "no-referrer");
    if (call.request.header("if-none-match") == etag) {
      call.responder.send({304, call.headers, ""});
      return;
    }
    call.headers.emplace_back("Content-Type", std::string(file.type));
    call.responder.send({200, call.headers, std::string(file.text)});
    return;
  }
  not_found(call);
}

void ApiServer::Routes::chat(Call& call) {
  auto parsed = parse_chat_request(call.request.body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return call.fail(*error);
  ChatRequest& chat = std::get<ChatRequest>(parsed);
  const node::MeshStatus status = world_.gateway.status();
  if (status.model.empty()) return call.fail(unavailable_error(status, "No model is loaded yet."));
  if (!chat.model.empty() && chat.model != status.model) {
    ApiError error = make_error(
        404, "invalid_request_error", "model_not_found",
        fmt::format("The model \"{}\" is not served here. Served: {}.", chat.model, status.model));
    error.param = "model";
    return call.fail(error);
  }
  ChatSink::Options sink;
  sink.identity.id = "chatcmpl-" + call.id.substr(4);
  sink.identity.created = world_.clock.unix_milliseconds() / 1000;
  sink.identity.model = status.model;
  sink.identity.fingerprint = system_fingerprint(status);
  sink.identity.include_usage = chat.include_usage;
  sink.request_id = call.id;
  sink.stream = chat.stream;
  sink.headers = call.headers;
  sink.patience = options.patience;
  sink.translate = [&gateway = world_.gateway, id = call.id](const Error& error) {
    return error_from_mesh(error, gateway.status(), id);
  };
  call.responder.on_close([this, id = call.id](CloseReason reason) {
    const char* why = reason == CloseReason::kSlowClient      ? "slow_client"
                      : reason == CloseReason::kServerStopped ? "stopped"
                                                              : "client_gone";
    world_.events.debug("api.cancelled", {{"id", id}, {"reason", why}});
    world_.gateway.cancel(id);
  });
  const auto shared = std::make_shared<ChatSink>(call.responder, std::move(sink));
  shared->arm();
  chat.generate.request_id = call.id;
  world_.gateway.generate(std::move(chat.generate), shared);
}

namespace {

HttpOptions with_error_shape(HttpOptions options) {
  options.error_response = transport_error;
  return options;
}

}  // namespace

ApiServer::ApiServer(ApiWorld world, ApiOptions options)
    : routes_(std::make_unique<Routes>(world, std::move(options))),
      server_(with_error_shape(routes_->options.http),
              [routes = routes_.get()](HttpRequest request, HttpResponder responder) {
                routes->handle(std::move(request), responder);
              }) {}

ApiServer::~ApiServer() {
  stop();
}

Result<std::uint16_t> ApiServer::listen() {
  const ApiOptions& options = routes_->options;
  if (!routes_->loopback() && options.api_key.empty())
    return Error(Code::kPermissionDenied,
                 fmt::format("refusing to serve on {} without an API key", options.host));
  return server_.listen(options.host, options.port, options.tries);
}

void ApiServer::stop() {
  server_.stop();
}

}  // namespace mesh::api
