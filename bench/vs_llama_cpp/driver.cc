#include "bench/vs_llama_cpp/driver.h"

#include <sched.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

namespace mesh::bench {
namespace {

[[noreturn]] void usage(const char* program, const std::string& why) {
  std::fprintf(stderr,
               "%s\nusage: %s -m MODEL [--threads N] [--cores 0,1] [--isa NAME] [--libs DIR] "
               "[--flash on|off]\n",
               why.c_str(), program);
  std::exit(2);
}

// False, and `out` as it was, for what is no number in least..most.
bool read_number(const std::string& text, int least, int most, int& out) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < least || value > most) return false;
  out = static_cast<int>(value);
  return true;
}

bool read_cores(const std::string& text, std::vector<int>& cores) {
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) {
    int core = 0;
    if (!read_number(part, 0, CPU_SETSIZE - 1, core)) return false;
    cores.push_back(core);
  }
  return !cores.empty();
}

// VmHWM, VmRSS and the like of this process in KiB.
long memory_kib(const char* name) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.compare(0, std::strlen(name), name) == 0)
      return std::strtol(line.c_str() + std::strlen(name) + 1, nullptr, 10);
  return 0;
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class Line {
 public:
  Line& add(const std::string& name, const std::string& json) {
    if (!text_.empty()) text_ += ',';
    text_ += json_text(name);
    text_ += ':';
    text_ += json;
    return *this;
  }
  Line& add(const std::string& name, double value) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", value);
    return add(name, std::string(digits));
  }
  template <class T>
  Line& add_list(const std::string& name, const std::vector<T>& values) {
    std::ostringstream out;
    out.precision(9);
    out << '[';
    for (std::size_t i = 0; i < values.size(); ++i) out << (i == 0 ? "" : ",") << values[i];
    out << ']';
    return add(name, out.str());
  }
  void print() const {
    std::printf("{%s}\n", text_.c_str());
    std::fflush(stdout);
  }

 private:
  std::string text_;
};

void add_status(Line& line) {
  line.add("vm_hwm_kib", static_cast<double>(memory_kib("VmHWM")));
  line.add("vm_rss_kib", static_cast<double>(memory_kib("VmRSS")));
  line.add("cpu_s", cpu_seconds());
}

// Reads up to three numbers behind a command; those not given keep their default.
bool read_numbers(std::istringstream& in, std::initializer_list<int*> numbers, std::size_t needed) {
  std::size_t read = 0;
  for (int* number : numbers) {
    std::string word;
    if (!(in >> word)) break;
    if (!read_number(word, 1, 1 << 20, *number)) return false;
    ++read;
  }
  std::string more;
  return read >= needed && !(in >> more);
}

Answer answer(Subject& subject, const std::string& command, std::istringstream& in, Line& line) {
  int first = 0, second = 0, third = 128;
  if (command == "prefill") {
    if (!read_numbers(in, {&first}, 1)) return {"prefill N", {}, {}};
    line.add("tokens", first);
    return subject.prefill(first);
  }
  if (command == "decode") {
    if (!read_numbers(in, {&first, &second, &third}, 2)) return {"decode S K [P]", {}, {}};
    line.add("sequences", first).add("prompt", third);
    return subject.decode(first, second, third);
  }
  if (command == "ids") {
    second = 8;
    if (!read_numbers(in, {&first, &second}, 1)) return {"ids N [P]", {}, {}};
    std::vector<std::int32_t> prompt;
    for (int i = 0; i < second; ++i) prompt.push_back(prompt_token(0, i, subject.vocabulary()));
    line.add_list("prompt", prompt);
    return subject.greedy_ids(first, second);
  }
  if (command == "set") {
    std::string name, value;
    in >> name >> value;
    if (!subject.set(name, value)) return {"no such setting", {}, {}};
    line.add("name", json_text(name)).add("value", json_text(value));
    return {};
  }
  if (command == "status") {
    add_status(line);
    return {};
  }
  return {"no such command", {}, {}};
}

}  // namespace

DriverOptions read_driver_options(int argc, char** argv) {
  DriverOptions options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) usage(argv[0], name + " without a value");
    const std::string value = argv[i + 1];
    bool fits = true;
    if (name == "-m")
      options.model = value;
    else if (name == "--threads")
      fits = read_number(value, 1, 512, options.threads);
    else if (name == "--cores")
      fits = read_cores(value, options.cores);
    else if (name == "--isa")
      options.isa = value;
    else if (name == "--libs")
      options.libraries = value;
    else if (name == "--flash")
      options.flash = value == "on";
    else
      usage(argv[0], "no option " + name);
    if (!fits) usage(argv[0], name + " " + value + " makes no sense");
  }
  if (options.model.empty()) usage(argv[0], "-m MODEL is missing");
  return options;
}

bool bind_to_cores(const std::vector<int>& cores) {
  if (cores.empty()) return true;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(static_cast<std::size_t>(core), &set);
  if (sched_setaffinity(0, sizeof set, &set) == 0) return true;
  std::perror("cannot bind to the cores");
  return false;
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::int32_t prompt_token(int sequence, int position, int vocabulary) {
  // Beyond the single bytes, below the special tokens at the end of every vocabulary.
  const std::uint32_t first = vocabulary > 1024 ? 300 : 3;
  const std::uint32_t count =
      static_cast<std::uint32_t>(vocabulary > 1024 ? vocabulary - 600 : vocabulary - 6);
  std::uint32_t x = static_cast<std::uint32_t>(sequence) * 0x9E3779B9u +
                    static_cast<std::uint32_t>(position) * 0x85EBCA6Bu + 1;
  x = (x ^ (x >> 15)) * 0x2C1B3C6Du;
  x ^= x >> 13;
  return static_cast<std::int32_t>(first + x % count);
}

std::string json_text(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
    } else {
      out += c;
    }
  }
  out += '"';
  return out;
}

int run_driver(Subject& subject, const DriverOptions& options, double begin_s) {
  Line ready;
  const double loaded_s = seconds_now();
  const Answer first = subject.greedy_ids(1, 1);
  if (!first.error.empty()) {
    std::fprintf(stderr, "cannot run a step: %s\n", first.error.c_str());
    return 1;
  }
  ready.add("event", json_text("ready"));
  for (const auto& [name, json] : subject.facts()) ready.add(name, json);
  ready.add("vocabulary", subject.vocabulary());
  ready.add("threads", options.threads).add("load_s", loaded_s - begin_s);
  ready.add("first_token_s", seconds_now() - begin_s);
  add_status(ready);
  subject.rest();
  ready.print();
  for (std::string text; std::getline(std::cin, text);) {
    std::istringstream in(text);
    std::string command;
    if (!(in >> command)) continue;
    if (command == "quit") break;
    Line line;
    line.add("command", json_text(command));
    const Answer got = answer(subject, command, in, line);
    subject.rest();
    if (!got.error.empty()) line.add("error", json_text(got.error));
    if (!got.seconds.empty()) line.add_list("seconds", got.seconds);
    if (!got.ids.empty()) line.add_list("ids", got.ids);
    line.print();
  }
  return 0;
}

}  // namespace mesh::bench
