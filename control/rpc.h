// JSON-RPC 2.0 as the control socket speaks it: one request a line, one response a line, no
// batches. A table of methods, each with the JSON schema of its parameters; the schema that
// `schema` hands out is the one that requests are checked against, so it cannot lie. No I/O here: a
// line in, a line out, at once or later. Owned by the control thread; requests come a few a second,
// so clarity before speed.
//
// Invariant: every line handed in is answered exactly once, with an empty string when the request
// was a notification (no id).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace culvert {

// JSON-RPC 2.0 section 5.1, then ours.
enum class RpcError : int {
  kParse = -32700,
  kInvalidRequest = -32600,
  kMethodNotFound = -32601,
  kInvalidParams = -32602,
  kInternal = -32603,
  kRefused = -32000,     // understood, but the relay will not: the message says why
  kNotFound = -32001,    // no such allocation, user, realm
  kBusy = -32002,        // a ring or queue is full: try again
  kPermission = -32003,  // the caller's account may not use this socket
  kTimeout = -32004,     // a core did not answer in time
};

// One response line, without its newline.
using RpcReply = std::function<void(std::string)>;

[[nodiscard]] std::string rpc_error_line(const nlohmann::json& id, RpcError code,
                                         std::string_view message);

// A method's one way back; copied freely, used once.
class RpcAnswer {
 public:
  RpcAnswer(nlohmann::json id, bool notification, RpcReply reply);
  void result(const nlohmann::json& value) const;
  void error(RpcError code, std::string_view message) const;

 private:
  struct State {
    nlohmann::json id;
    bool notification;
    RpcReply reply;
  };
  std::shared_ptr<State> state_;
};

struct RpcMethod {
  std::string name;
  std::string summary;
  nlohmann::json properties;          // of the parameter object, as in JSON schema
  std::vector<std::string> required;  // their names
  std::function<void(const nlohmann::json& params, const RpcAnswer& answer)> call;
};

class Rpc {
 public:
  // Adds the method `schema` to those given.
  explicit Rpc(std::vector<RpcMethod> methods);
  Rpc(const Rpc&) = delete;
  Rpc& operator=(const Rpc&) = delete;

  // Never throws; whatever `line` holds. A method that throws is answered with kInternal.
  void handle(std::string_view line, RpcReply reply) const;

  [[nodiscard]] nlohmann::json schema() const;

 private:
  [[nodiscard]] const RpcMethod* find(std::string_view name) const;

  std::vector<RpcMethod> methods_;
};

// Empty: `params` fits; else a sentence that names the parameter and what it must be. Knows the
// part of JSON schema that methods use: type, enum, minimum, maximum, maxLength; unknown names are
// errors.
[[nodiscard]] std::string check_params(const RpcMethod& method, const nlohmann::json& params);

}  // namespace culvert
