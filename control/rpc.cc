#include "control/rpc.h"

#include <exception>
#include <utility>

namespace culvert {

using nlohmann::json;

namespace {

// Names and addresses come from the network and need not be UTF-8: replace what is not.
[[nodiscard]] std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

[[nodiscard]] bool type_fits(const std::string& type, const json& value) {
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number_integer();
  return false;
}

[[nodiscard]] std::string in_quotes(std::string_view text) {
  return dump(json(std::string(text)));
}

[[nodiscard]] std::string check_one(const std::string& name, const json& schema,
                                    const json& value) {
  const std::string type = schema.at("type");
  if (!type_fits(type, value)) return in_quotes(name) + " must be of type " + type;
  if (const auto choices = schema.find("enum"); choices != schema.end()) {
    for (const json& choice : *choices) {
      if (choice == value) return "";
    }
    return in_quotes(name) + " must be one of " + dump(*choices);
  }
  if (type == "integer") {
    const auto low = schema.value("minimum", int64_t{0});
    const auto high = schema.value("maximum", int64_t{0xffffffff});
    const bool too_large =
        value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(high);
    if (too_large || value.get<int64_t>() < low || value.get<int64_t>() > high)
      return in_quotes(name) + " must be from " + std::to_string(low) + " to " +
             std::to_string(high);
  }
  if (type == "string" &&
      value.get_ref<const std::string&>().size() > schema.value("maxLength", size_t{1024}))
    return in_quotes(name) + " is too long";
  return "";
}

}  // namespace

std::string rpc_error_line(const json& id, RpcError code, std::string_view message) {
  json error = {{"code", static_cast<int>(code)}, {"message", std::string(message)}};
  return dump({{"jsonrpc", "2.0"}, {"id", id}, {"error", std::move(error)}});
}

RpcAnswer::RpcAnswer(json id, bool notification, RpcReply reply)
    : state_(std::make_shared<State>(State{std::move(id), notification, std::move(reply)})) {}

void RpcAnswer::result(const json& value) const {
  if (!state_->reply) return;
  const RpcReply reply = std::exchange(state_->reply, nullptr);
  if (state_->notification) return reply("");
  reply(dump({{"jsonrpc", "2.0"}, {"id", state_->id}, {"result", value}}));
}

void RpcAnswer::error(RpcError code, std::string_view message) const {
  if (!state_->reply) return;
  const RpcReply reply = std::exchange(state_->reply, nullptr);
  if (state_->notification) return reply("");
  reply(rpc_error_line(state_->id, code, message));
}

std::string check_params(const RpcMethod& method, const json& params) {
  for (const auto& [name, value] : params.items()) {
    const auto known = method.properties.find(name);
    if (known == method.properties.end())
      return "unknown parameter " + in_quotes(name) + " of " + method.name;
    if (std::string e = check_one(name, *known, value); !e.empty()) return e;
  }
  for (const std::string& name : method.required) {
    if (!params.contains(name)) return "parameter " + in_quotes(name) + " is missing";
  }
  return "";
}

Rpc::Rpc(std::vector<RpcMethod> methods) : methods_(std::move(methods)) {
  methods_.push_back({"schema",
                      "this description",
                      json::object(),
                      {},
                      [this](const json&, const RpcAnswer& answer) { answer.result(schema()); }});
}

const RpcMethod* Rpc::find(std::string_view name) const {
  for (const RpcMethod& m : methods_) {
    if (m.name == name) return &m;
  }
  return nullptr;
}

json Rpc::schema() const {
  json methods = json::object();
  for (const RpcMethod& m : methods_) {
    json params = {
        {"type", "object"}, {"additionalProperties", false}, {"properties", m.properties}};
    if (!m.required.empty()) params["required"] = m.required;
    methods[m.name] = {{"summary", m.summary}, {"params", std::move(params)}};
  }
  return {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
          {"protocol", "JSON-RPC 2.0, one message a line, no batches"},
          {"methods", std::move(methods)}};
}

void Rpc::handle(std::string_view line, RpcReply reply) const {
  const json request = json::parse(line, nullptr, false);
  if (request.is_discarded())
    return reply(rpc_error_line(nullptr, RpcError::kParse, "the line is not JSON"));
  if (request.is_array())
    return reply(rpc_error_line(nullptr, RpcError::kInvalidRequest,
                                "batches are not supported: send one request a line"));
  if (!request.is_object())
    return reply(rpc_error_line(nullptr, RpcError::kInvalidRequest, "a request is a JSON object"));

  const auto id_at = request.find("id");
  const json id = id_at == request.end() ? json(nullptr) : *id_at;
  if (!id.is_null() && !id.is_string() && !id.is_number())
    return reply(rpc_error_line(nullptr, RpcError::kInvalidRequest,
                                "\"id\" must be a string, a number or null"));
  const auto version = request.find("jsonrpc");
  if (version == request.end() || *version != "2.0")
    return reply(rpc_error_line(id, RpcError::kInvalidRequest, "\"jsonrpc\" must be \"2.0\""));
  const auto name = request.find("method");
  if (name == request.end() || !name->is_string())
    return reply(rpc_error_line(id, RpcError::kInvalidRequest, "\"method\" must be a string"));

  const RpcAnswer answer(id, id_at == request.end(), std::move(reply));
  const RpcMethod* method = find(name->get_ref<const std::string&>());
  if (method == nullptr)
    return answer.error(RpcError::kMethodNotFound,
                        "no method " + in_quotes(name->get_ref<const std::string&>()) +
                            "; the method \"schema\" lists them");
  const auto params_at = request.find("params");
  const json params = params_at == request.end() ? json::object() : *params_at;
  if (!params.is_object())
    return answer.error(RpcError::kInvalidParams,
                        "\"params\" must be an object (named parameters)");
  if (const std::string e = check_params(*method, params); !e.empty())
    return answer.error(RpcError::kInvalidParams, e);
  try {
    method->call(params, answer);
  } catch (const std::exception& e) {
    answer.error(RpcError::kInternal, e.what());
  }
}

}  // namespace culvert
