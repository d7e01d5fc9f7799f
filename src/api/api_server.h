#pragma once
// The HTTP API and the built-in page of one node. Routes, fields and errors: docs/http_api.md.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/http_server.h"
#include "base/events.h"
#include "base/result.h"
#include "env/env.h"
#include "node/gateway.h"

namespace mesh::api {

struct ApiOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8642;              // 0: any free one
  int tries = 16;                         // further ports to try when it is taken
  std::string api_key;                    // "": no key is asked for; only allowed on loopback
  bool page = true;                       // false: no web page, only the API
  std::vector<std::string> cors_origins;  // "" none; "*" or "https://host" values
  Duration patience = limits::kHttpStreamPing;
  HttpOptions http;  // error_response is set by the server
};

// What the API takes from the world. `clock` and `random` are called on the HTTP thread, so they
// must be thread-safe for unix_milliseconds() and fill().
struct ApiWorld {
  node::Gateway& gateway;
  env::Clock& clock;
  env::Random& random;
  Events& events;
};

class ApiServer {
 public:
  // The world outlives the server.
  ApiServer(ApiWorld world, ApiOptions options);
  ~ApiServer();  // stop()
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  // Starts serving and returns the port. Errors: permission_denied for a host other than loopback
  // without a key, and those of HttpServer::listen.
  Result<std::uint16_t> listen();
  // Ends all answers (their generations are cancelled) and joins the HTTP thread. Not on the
  // HTTP thread.
  void stop();

 private:
  class Routes;
  std::unique_ptr<Routes> routes_;
  HttpServer server_;
};

}  // namespace mesh::api
