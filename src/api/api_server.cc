#include "api/api_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <variant>

#include "api/answer_json.h"
#include "api/answer_sink.h"
#include "api/chat_request.h"
#include "api/completion_request.h"
#include "api/page.h"
#include "api/status_json.h"
#include "api/tokenize_request.h"
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
    "/v1/responses",          "/v1/messages",    "/v1/embeddings", "/v1/audio/speech",
    "/v1/images/generations", "/v1/files",       "/v1/batches",    "/v1/rerank",
    "/openapi.json",          "/apply-template", "/props",         "/api/chat",
    "/api/generate",          "/api/tags",       "/api/embed",     "/v1/moderations"};

constexpr std::string_view kRoutesSentence =
    "It serves POST /v1/chat/completions, /v1/completions, /tokenize and /detokenize, and GET "
    "/v1/models, /mesh/status, /metrics, /health, /ready and /version.";

// Unsent bytes that one answer may pile up: what may be under way when its reader falls behind,
// for every choice, and an echo, which comes at once.
std::size_t stream_buffer_bytes(const AnswerRequest& request, std::size_t least) {
  constexpr std::size_t kTokensUnderWay = 64, kChunkBytes = 512, kAlternativeBytes = 128;
  if (request.generate.echo) return limits::kStreamBufferMost;
  const std::size_t choices = request.generate.prompts.size() * request.generate.n;
  const std::size_t token =
      kChunkBytes +
      (request.generate.logprobs ? kAlternativeBytes * (1 + *request.generate.logprobs) : 0);
  return std::clamp(choices * kTokensUnderWay * token, least,
                    std::max(least, limits::kStreamBufferMost));
}

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
  std::function<HttpCounts()> counts;  // of the HTTP server, set once it exists
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
  enum class Key { kNeeded, kNeededBeyondLoopback, kNone };
  struct Route {
    std::string_view path;
    std::string_view methods;  // "GET, HEAD" or "POST"
    Key key;
    Action action;
  };
  static const std::vector<Route>& table();
  static const Route* find(std::string_view path);

  bool admit_origin(Call& call) const;
  bool admit_key(const Call& call) const;
  void not_found(const Call& call) const;
  void preflight(Call& call, const Route* route) const;
  std::string draw_id();

  bool serves(const Call& call, const std::string& model, const node::MeshStatus& status) const;
  void generate(Call& call, std::variant<AnswerRequest, ApiError> parsed, AnswerKind kind);
  AnswerSink::Options sink_options(const Call& call, const AnswerRequest& request,
                                   const node::MeshStatus& status, AnswerKind kind) const;
  void chat(Call& call) {
    generate(call, parse_chat_request(call.request.body), AnswerKind::kChat);
  }
  void completion(Call& call) {
    generate(call, parse_completion_request(call.request.body), AnswerKind::kText);
  }
  void tokenize(Call& call);
  void detokenize(Call& call);
  void metrics(Call& call);
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
      {"/v1/chat/completions", "POST", Key::kNeeded, &Routes::chat},
      {"/chat/completions", "POST", Key::kNeeded, &Routes::chat},
      {"/v1/completions", "POST", Key::kNeeded, &Routes::completion},
      {"/completions", "POST", Key::kNeeded, &Routes::completion},
      {"/tokenize", "POST", Key::kNeeded, &Routes::tokenize},
      {"/detokenize", "POST", Key::kNeeded, &Routes::detokenize},
      {"/v1/models", "GET, HEAD", Key::kNeeded, &Routes::models},
      {"/models", "GET, HEAD", Key::kNeeded, &Routes::models},
      {"/health", "GET, HEAD", Key::kNone, &Routes::health},
      {"/v1/health", "GET, HEAD", Key::kNone, &Routes::health},
      {"/ready", "GET, HEAD", Key::kNone, &Routes::ready},
      {"/metrics", "GET, HEAD", Key::kNeededBeyondLoopback, &Routes::metrics},
      {"/mesh/status", "GET, HEAD", Key::kNeeded, &Routes::status},
      {"/version", "GET, HEAD", Key::kNeeded, &Routes::version},
      {"/", "GET, HEAD", Key::kNone, &Routes::page},
      {"/index.html", "GET, HEAD", Key::kNone, &Routes::page},
      {"/app.js", "GET, HEAD", Key::kNone, &Routes::page},
      {"/style.css", "GET, HEAD", Key::kNone, &Routes::page},
  };
  return kTable;
}

const ApiServer::Routes::Route* ApiServer::Routes::find(std::string_view path) {
  static const Route kModel = {kModelsPrefix, "GET, HEAD", Key::kNeeded, &Routes::model};
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
  const Key key = route == nullptr ? Key::kNeeded : route->key;
  const bool keyless = key == Key::kNone || (key == Key::kNeededBeyondLoopback && loopback_);
  if (!keyless && !admit_key(call)) return;
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
    call.headers.emplace_back("Access-Control-Expose-Headers",
                              "x-request-id, Retry-After, Server-Timing");
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
    return call.fail(
        make_error(404, "not_found_error", "not_built",
                   fmt::format("{} is not built yet in this server. {}", path, kRoutesSentence)));
  }
  call.fail(make_error(404, "not_found_error", "not_found",
                       fmt::format("There is no {} here. {}", path, kRoutesSentence)));
}

void ApiServer::Routes::model(Call& call) {
  const node::MeshStatus status = world_.gateway.status();
  const std::string name = call.request.path.substr(kModelsPrefix.size());
  if (!status.model.empty() && name == status.model)
    return call.json(200, model_json(status, started_));
  call.fail(model_not_found(name, status));
}

void ApiServer::Routes::ready(Call& call) {
  const node::MeshStatus status = world_.gateway.status();
  if (!status.ready)
    call.headers.emplace_back("Retry-After", std::to_string(std::max(status.retry_after_s, 1u)));
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

// Answers the call and returns false where there is no model, or only another one.
bool ApiServer::Routes::serves(const Call& call, const std::string& model,
                               const node::MeshStatus& status) const {
  if (status.model.empty()) {
    call.fail(unavailable_error(status, "No model is loaded yet."));
    return false;
  }
  if (model.empty() || model == status.model) return true;
  ApiError error = model_not_found(model, status);
  error.param = "model";
  call.fail(error);
  return false;
}

AnswerSink::Options ApiServer::Routes::sink_options(const Call& call, const AnswerRequest& request,
                                                    const node::MeshStatus& status,
                                                    AnswerKind kind) const {
  const bool chat = kind == AnswerKind::kChat;
  AnswerSink::Options out;
  out.identity.kind = kind;
  out.identity.id = (chat ? "chatcmpl-" : "cmpl-") + call.id.substr(4);
  out.identity.created = world_.clock.unix_milliseconds() / 1000;
  out.identity.model = status.model;
  out.identity.fingerprint = system_fingerprint(status);
  out.stream = request.stream;
  out.include_usage = request.include_usage;
  out.continuous_usage = request.continuous_usage;
  out.choices = static_cast<std::uint32_t>(request.generate.prompts.size()) * request.generate.n;
  out.logprobs = request.generate.logprobs;
  out.stop = request.generate.stop;
  out.buffer_bytes = stream_buffer_bytes(request, options.http.stream_buffer_bytes);
  out.high_bytes = options.http.stream_high_bytes;
  out.low_bytes = options.http.stream_low_bytes;
  out.headers = call.headers;
  out.patience = options.patience;
  out.translate = [&gateway = world_.gateway, id = call.id, chat](const Error& error) {
    return error_from_mesh(error, gateway.status(), id, chat ? "messages" : "prompt");
  };
  out.set_reading = [this, id = call.id](bool reading) {
    world_.events.debug("api.reader", {{"id", id}, {"reading", reading ? "yes" : "no"}});
    world_.gateway.set_reading(id, reading);
  };
  return out;
}

void ApiServer::Routes::generate(Call& call, std::variant<AnswerRequest, ApiError> parsed,
                                 AnswerKind kind) {
  if (const auto* error = std::get_if<ApiError>(&parsed)) return call.fail(*error);
  AnswerRequest& request = std::get<AnswerRequest>(parsed);
  const node::MeshStatus status = world_.gateway.status();
  if (!serves(call, request.model, status)) return;
  const auto sink =
      std::make_shared<AnswerSink>(call.responder, sink_options(call, request, status, kind));
  call.responder.on_close([this, id = call.id](CloseReason reason) {
    const char* why = reason == CloseReason::kSlowClient      ? "slow_client"
                      : reason == CloseReason::kServerStopped ? "stopped"
                                                              : "client_gone";
    world_.events.debug("api.cancelled", {{"id", id}, {"reason", why}});
    world_.gateway.cancel(id);
  });
  sink->arm();
  request.generate.request_id = call.id;
  // Pieces tell their tokens only with scores, and a running count needs the tokens.
  if (request.continuous_usage && !request.generate.logprobs) request.generate.logprobs = 0;
  world_.gateway.generate(std::move(request.generate), sink);
}

void ApiServer::Routes::tokenize(Call& call) {
  auto parsed = parse_tokenize_request(call.request.body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return call.fail(*error);
  TokenizeCall& wanted = std::get<TokenizeCall>(parsed);
  const node::MeshStatus status = world_.gateway.status();
  if (!serves(call, wanted.model, status)) return;
  // Texts are written on the HTTP thread, as the mesh answers on the control loop.
  world_.gateway.tokenize(std::move(wanted.request), [this, call, context = status.context,
                                                      pieces = wanted.with_pieces](auto tokens) {
    call.responder.defer([this, call, context, pieces, tokens = std::move(tokens)] {
      if (!tokens.ok())
        return call.fail(error_from_mesh(tokens.error(), world_.gateway.status(), call.id));
      call.json(200, tokenize_json(*tokens, context, pieces));
    });
  });
}

void ApiServer::Routes::detokenize(Call& call) {
  auto parsed = parse_detokenize_request(call.request.body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return call.fail(*error);
  DetokenizeCall& wanted = std::get<DetokenizeCall>(parsed);
  if (!serves(call, wanted.model, world_.gateway.status())) return;
  world_.gateway.detokenize(std::move(wanted.tokens), [this, call](Result<std::string> text) {
    call.responder.defer([this, call, text = std::move(text)] {
      if (!text.ok())
        return call.fail(error_from_mesh(text.error(), world_.gateway.status(), call.id));
      call.json(200, detokenize_json(*text));
    });
  });
}

void ApiServer::Routes::metrics(Call& call) {
  world_.gateway.metrics([this, call](std::string text) {
    call.responder.defer([this, call, text = std::move(text)]() mutable {
      HttpHeaders headers = call.headers;
      headers.emplace_back("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
      headers.emplace_back("Cache-Control", "no-store");
      text += http_metrics_text(counts());
      call.responder.send({200, std::move(headers), std::move(text)});
    });
  });
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
              }) {
  routes_->counts = [this] { return server_.counts(); };
}

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
