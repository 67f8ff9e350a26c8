// One connection to culvertd's control socket: a request, its answer. Blocking, with a time limit.
#pragma once

#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

namespace culvert {

// The daemon could not be reached, or went away.
struct Unreachable : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// The daemon understood and said no; `what` is its sentence.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Longer than a core may take to answer (kQuestionTimeoutMs) by far.
inline constexpr int kAnswerTimeoutSeconds = 15;

class ControlClient {
 public:
  explicit ControlClient(const std::string& path);
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  // The `result` of the answer.
  [[nodiscard]] nlohmann::json call(const std::string& method,
                                    const nlohmann::json& params = nlohmann::json::object());

 private:
  [[nodiscard]] std::string read_line();

  std::string path_;
  int fd_ = -1;
  std::string buffer_;
  int next_id_ = 1;
};

}  // namespace culvert
