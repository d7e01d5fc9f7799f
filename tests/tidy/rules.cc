#include "tidy/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace mesh::tidy {
namespace {

// --- banned calls
// ------------------------------------------------------------------------------------------------

struct Ban {
  std::string_view word;
  bool call;  // only when a parenthesis follows and no object stands before it
  std::string_view instead;
  bool thread = false;
};

constexpr std::string_view kClock = "use env.clock.now(), so that simulation owns time";
constexpr std::string_view kRandom = "use env.random or base/random.h with a seed";
constexpr std::string_view kSleep = "use env.timers.after(); tests step a simulated clock";
constexpr std::string_view kEnvironment = "read it in cli/ and pass the value down";
constexpr std::string_view kThread =
    "the threads of a node are listed in ARCHITECTURE.md; use a ThreadPool or a worker";

constexpr std::array kBans = {
    Ban{"steady_clock", false, kClock},
    Ban{"system_clock", false, kClock},
    Ban{"high_resolution_clock", false, kClock},
    Ban{"clock_gettime", true, kClock},
    Ban{"gettimeofday", true, kClock},
    Ban{"time", true, kClock},
    Ban{"random_device", false, kRandom},
    Ban{"rand", true, kRandom},
    Ban{"srand", true, kRandom},
    Ban{"drand48", true, kRandom},
    Ban{"sleep_for", false, kSleep},
    Ban{"sleep_until", false, kSleep},
    Ban{"sleep", true, kSleep},
    Ban{"usleep", true, kSleep},
    Ban{"nanosleep", true, kSleep},
    Ban{"getenv", true, kEnvironment},
    Ban{"secure_getenv", true, kEnvironment},
    Ban{"setenv", true, kEnvironment},
    Ban{"thread", false, kThread, true},
    Ban{"jthread", false, kThread, true},
    Ban{"pthread_create", true, kThread, true},
    Ban{"async", true, kThread, true},
};

// Places where a ban does not hold, each for a reason. A path allows everything that begins with
// it.
struct Allowed {
  std::string_view path;
  bool threads_only;
  std::string_view why;
};

constexpr std::array kAllowed = {
    Allowed{"src/env/real_", false, "the one implementation of Env that is the real world"},
    Allowed{"src/env/env_test.cc", false, "tries the real loop against the real clock"},
    Allowed{"src/net/", false, "owns sockets and the I/O thread"},
    Allowed{"src/api/", false, "owns HTTP connections and their thread"},
    Allowed{"src/cli/", false, "reads environment variables and builds the real Env"},
    Allowed{"src/base/thread_pool", true, "the fork-join pool of kernels"},
    Allowed{"src/base/bounded_queue", true, "hand-over between threads"},
    Allowed{"src/engine/engine_compute.cc", true, "the compute thread of a node"},
    Allowed{"src/node/", true, "waits for the control loop when a node starts and stops"},
    Allowed{"bench/", false, "measures real time"},
    Allowed{"src/measure/", false, "measures real time"},
    Allowed{"tests/exactness/", false, "prints how long its configurations took"},
    Allowed{"tests/loopback/", false, "drives real processes"},
    Allowed{"tests/load/", false, "drives real processes"},
    Allowed{"tests/browser/", false, "drives real processes"},
    Allowed{"tests/clients/", false, "drives real processes"},
    Allowed{"tests/support/", false, "test_main.cc reads CI"},
};

bool allowed(std::string_view path, const Ban& ban) {
  // Tests of queues and pools need threads; a variable says that golden files are to be rewritten.
  if (is_test(path) && (ban.thread || ban.instead == kEnvironment)) return true;
  return std::any_of(kAllowed.begin(), kAllowed.end(), [&](const Allowed& a) {
    return path.substr(0, a.path.size()) == a.path && (ban.thread || !a.threads_only);
  });
}

// std::thread and std::async are meant, not asio::thread_pool, a field named thread or
// `this_thread::yield`.
bool is_std(std::string_view line, std::size_t at) {
  return at >= 5 && line.substr(at - 5, 5) == "std::";
}

bool is_free_call(std::string_view line, std::size_t at, std::size_t end) {
  const std::size_t next = line.find_first_not_of(' ', end);
  if (next == std::string_view::npos || line[next] != '(') return false;
  const std::size_t before = at == 0 ? std::string_view::npos : line.find_last_not_of(' ', at - 1);
  if (before == std::string_view::npos) return true;
  if (line[before] == '.') return false;
  if (line[before] == '>' && before > 0 && line[before - 1] == '-') return false;
  if (line[before] == ':')
    return is_std(line, at) || before < 2 || !is_identifier_char(line[before - 2]);
  // "Instant time(" declares a function: a type name stands before it, but "return time(" calls
  // one.
  if (!is_identifier_char(line[before]) && line[before] != '>' && line[before] != '&') return true;
  return before + 1 >= 6 && find_word(line.substr(0, before + 1), "return") == before + 1 - 6;
}

bool breaks(const Ban& ban, std::string_view line) {
  for (std::size_t at = find_word(line, ban.word); at != std::string_view::npos;
       at = find_word(line, ban.word, at + 1)) {
    const std::size_t end = at + ban.word.size();
    if (ban.thread && ban.word != "pthread_create") {
      const bool capability_query = line.substr(end, 22) == "::hardware_concurrency";
      if (is_std(line, at) && !capability_query) return true;
    } else if (!ban.call || is_free_call(line, at, end)) {
      return true;
    }
  }
  return false;
}

bool is_include(std::string_view code) {
  const std::size_t first = code.find_first_not_of(" \t");
  return first != std::string_view::npos && code[first] == '#' &&
         find_word(code, "include") != std::string_view::npos;
}

// --- headers
// -----------------------------------------------------------------------------------------------------

constexpr std::array<std::string_view, 13> kHeavy = {
    "<boost/asio", "<boost/beast", "<nlohmann/", "<google/protobuf", ".pb.h\"",    "<simdjson",
    "<gtest/",     "<openssl/",    "<CLI/",      "<spdlog/",         "<iostream>", "<regex>",
    "<ranges>"};

// Expensive headers that are the business of one header, each for a reason.
bool heavy_allowed(std::string_view path) {
  return path.substr(0, 6) == "tests/";
}

// A .inc is compiled by being included: "module/x.inc" in some file is enough.
bool is_included_text(const SourceFile& file, const std::vector<SourceFile>& files) {
  if (file.path.size() < 4 || file.path.substr(file.path.size() - 4) != ".inc") return false;
  const std::size_t below_src = file.path.compare(0, 4, "src/") == 0 ? 4 : 0;
  const std::string quoted = "\"" + file.path.substr(below_src) + "\"";
  return std::any_of(files.begin(), files.end(), [&](const SourceFile& other) {
    for (std::size_t i = 0; i < other.code.size(); ++i)
      if (is_include(other.code[i]) && other.lines[i].find(quoted) != std::string::npos)
        return true;
    return false;
  });
}

}  // namespace

Findings check_sizes(const std::vector<SourceFile>& files, Findings* long_files) {
  Findings findings;
  for (const SourceFile& file : files) {
    const std::size_t lines = file.lines.size();
    if (lines > kLinesHard)
      findings.push_back(
          {file.path, 0,
           fmt::format("{} lines, at most {}: split it by concept", lines, kLinesHard)});
    else if (lines > kLinesAimed && long_files != nullptr)
      long_files->push_back(
          {file.path, 0, fmt::format("{} lines, {} aimed at", lines, kLinesAimed)});
  }
  return findings;
}

Findings check_banned_calls(const std::vector<SourceFile>& files) {
  Findings findings;
  for (const SourceFile& file : files) {
    for (std::size_t i = 0; i < file.code.size(); ++i) {
      if (is_include(file.code[i])) continue;
      for (const Ban& ban : kBans)
        if (breaks(ban, file.code[i]) && !allowed(file.path, ban))
          findings.push_back({file.path, static_cast<int>(i) + 1,
                              fmt::format("'{}' is banned here: {}", ban.word, ban.instead)});
    }
  }
  return findings;
}

Findings check_heavy_headers(const std::vector<SourceFile>& files) {
  Findings findings;
  for (const SourceFile& file : files) {
    if (!is_header(file.path) || heavy_allowed(file.path)) continue;
    for (std::size_t i = 0; i < file.code.size(); ++i) {
      if (!is_include(file.code[i])) continue;
      for (std::string_view heavy : kHeavy)
        if (file.lines[i].find(heavy) != std::string::npos)
          findings.push_back(
              {file.path, static_cast<int>(i) + 1,
               fmt::format("{} is expensive: include it in a .cc and forward-declare here",
                           heavy)});
    }
  }
  return findings;
}

Findings check_promises(const std::vector<SourceFile>& files) {
  // Written in halves, so that this file passes its own rule.
  const std::array<std::string, 2> words = {std::string("TO") + "DO", std::string("FIX") + "ME"};
  Findings findings;
  for (const SourceFile& file : files)
    for (std::size_t i = 0; i < file.lines.size(); ++i)
      for (const std::string& word : words)
        if (find_word(file.lines[i], word) != std::string::npos)
          findings.push_back({file.path, static_cast<int>(i) + 1,
                              fmt::format("{}: do it, or state the limit as a fact", word)});
  return findings;
}

Findings check_headers(const std::vector<SourceFile>& files) {
  Findings findings;
  for (const SourceFile& file : files) {
    if (is_header(file.path)) {
      const auto first =
          std::find_if(file.code.begin(), file.code.end(), [](const std::string& line) {
            return line.find_first_not_of(" \t") != std::string::npos;
          });
      if (first == file.code.end() || *first != "#pragma once")
        findings.push_back({file.path, 1, "a header begins with #pragma once"});
    }
    for (std::size_t i = 0; i < file.code.size(); ++i)
      if (is_include(file.code[i]) && file.lines[i].find(".cc\"") != std::string::npos)
        findings.push_back(
            {file.path, static_cast<int>(i) + 1, "a .cc is compiled, not included: use a header"});
  }
  return findings;
}

Findings check_listed_in_cmake(const std::vector<SourceFile>& files) {
  Findings findings;
  const auto listed_by = [&](const std::string& folder, const std::string& name) {
    const std::string list = folder.empty() ? "CMakeLists.txt" : folder + "/CMakeLists.txt";
    for (const SourceFile& file : files) {
      if (file.path != list) continue;
      for (const std::string& line : file.lines) {
        const std::string_view text = std::string_view(line).substr(0, line.find('#'));
        for (std::size_t at = text.find(name); at != std::string_view::npos;
             at = text.find(name, at + 1)) {
          const std::string_view stop = " ()\t\"";
          const bool left = at == 0 || stop.find(text[at - 1]) != std::string_view::npos ||
                            (at >= 2 && text.substr(at - 2, 2) == "}/");
          const std::size_t end = at + name.size();
          if (left && (end == text.size() || stop.find(text[end]) != std::string_view::npos))
            return true;
        }
      }
    }
    return false;
  };
  for (const SourceFile& file : files) {
    if (!is_cpp(file.path)) continue;
    bool listed = is_included_text(file, files);
    std::string folder = parent(file.path);
    while (!listed) {
      const std::size_t skip = folder.empty() ? 0 : folder.size() + 1;
      listed = listed_by(folder, file.path.substr(skip));
      if (folder.empty()) break;
      folder = parent(folder);
    }
    if (!listed)
      findings.push_back(
          {file.path, 0,
           "in no CMakeLists.txt: add it to SRCS, HDRS or TESTS of its module, or delete it"});
  }
  return findings;
}

Findings check_limits_used(const std::vector<SourceFile>& files) {
  constexpr std::string_view kLimits = "src/base/limits.h";
  Findings findings;
  for (const SourceFile& limits : files) {
    if (limits.path != kLimits) continue;
    for (std::size_t i = 0; i < limits.code.size(); ++i) {
      const std::string_view line = limits.code[i];
      const std::size_t equals = line.find('=');
      if (find_word(line, "constexpr") == std::string_view::npos ||
          equals == std::string_view::npos)
        continue;
      const std::size_t last = line.find_last_not_of(' ', equals - 1);
      std::size_t first = last;
      while (first > 0 && is_identifier_char(line[first - 1])) --first;
      const std::string_view name = line.substr(first, last - first + 1);
      const bool used = std::any_of(files.begin(), files.end(), [&](const SourceFile& file) {
        if (is_test(file.path)) return false;
        for (std::size_t k = 0; k < file.code.size(); ++k)
          if (!(file.path == kLimits && k == i) &&
              find_word(file.code[k], name) != std::string_view::npos)
            return true;
        return false;
      });
      if (!used)
        findings.push_back(
            {limits.path, static_cast<int>(i) + 1,
             fmt::format("{} bounds nothing: use it where the queue or table is, or delete it",
                         name)});
    }
  }
  return findings;
}

}  // namespace mesh::tidy
