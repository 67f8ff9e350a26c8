#include "control/health.h"

#include <stdexcept>
#include <unordered_set>
#include <utility>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/optional/optional.hpp>

#include "control/logging.h"

namespace culvert {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

[[nodiscard]] tcp::endpoint to_endpoint(const TransportAddress& a) {
  if (a.ip.is_v4()) return {asio::ip::address_v4(a.ip.v4_host()), a.port};
  asio::ip::address_v6::bytes_type bytes;
  std::memcpy(bytes.data(), a.ip.bytes.data(), bytes.size());
  return {asio::ip::address_v6(bytes), a.port};
}

using Response = http::response<http::string_body>;

[[nodiscard]] Response make_response(const http::request<http::empty_body>& request,
                                     const HealthHooks& hooks) {
  Response response{http::status::ok, request.version()};
  response.keep_alive(request.keep_alive());
  response.set(http::field::content_type, "text/plain; charset=utf-8");
  response.set(http::field::cache_control, "no-store");
  const beast::string_view target = request.target().substr(0, request.target().find('?'));
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    response.result(http::status::method_not_allowed);
    response.set(http::field::allow, "GET, HEAD");
    response.body() = "only GET and HEAD\n";
  } else if (target == "/metrics") {
    response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    response.body() = hooks.metrics();
  } else if (target == "/healthz") {
    const bool ok = hooks.healthy();
    response.body() = ok ? "ok\n" : "a core stands still\n";
    if (!ok) response.result(http::status::service_unavailable);
  } else if (target == "/readyz") {
    const bool ok = hooks.ready();
    response.body() = ok ? "ready\n" : "not taking new allocations\n";
    if (!ok) response.result(http::status::service_unavailable);
  } else {
    response.result(http::status::not_found);
    response.body() = "try /metrics, /healthz or /readyz\n";
  }
  response.prepare_payload();
  // HEAD: the headers of the same GET, no body (RFC 9110 section 9.3.2).
  if (request.method() == http::verb::head) response.body().clear();
  return response;
}

}  // namespace

class HealthListener::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(asio::io_context& io, HealthHooks hooks, Logger& log)
      : hooks_(std::move(hooks)), acceptor_(io), log_(log) {}

  void open(const TransportAddress& listen) {
    const tcp::endpoint at = to_endpoint(listen);
    try {
      acceptor_.open(at.protocol());
      acceptor_.set_option(asio::socket_base::reuse_address(true));
      if (listen.ip.is_v6()) acceptor_.set_option(asio::ip::v6_only(true));
      acceptor_.bind(at);
      acceptor_.listen(static_cast<int>(kMaxHttpConnections));
    } catch (const boost::system::system_error& e) {
      throw std::runtime_error("metrics.listen " + listen.to_string() + ": " + e.code().message() +
                               ": choose another address or port");
    }
    listen_ = listen;
    listen_.port = acceptor_.local_endpoint().port();
  }

  void accept() {
    acceptor_.async_accept([weak = weak_from_this()](error_code e, tcp::socket socket) {
      const std::shared_ptr<Impl> self = weak.lock();
      if (self == nullptr || !self->acceptor_.is_open()) return;
      if (!e) self->greet(std::move(socket));
      self->accept();
    });
  }

  void close();
  [[nodiscard]] const TransportAddress& address() const { return listen_; }

 private:
  class Connection;
  void greet(tcp::socket socket);

  HealthHooks hooks_;
  tcp::acceptor acceptor_;
  Logger& log_;
  TransportAddress listen_;
  std::unordered_set<std::shared_ptr<Connection>> connections_;
};

class HealthListener::Impl::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Impl& server, tcp::socket socket) : server_(&server), stream_(std::move(socket)) {}

  void read() {
    parser_.emplace();
    parser_->header_limit(kMaxHttpHeader);
    parser_->body_limit(0);
    stream_.expires_after(kHttpTimeout);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](error_code e, size_t) { self->on_read(e); });
  }

  void close() {
    error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    stream_.close();
    if (server_ == nullptr) return;
    Impl* server = std::exchange(server_, nullptr);
    server->connections_.erase(shared_from_this());
  }

  void orphan() {
    server_ = nullptr;
    close();
  }

 private:
  void on_read(error_code e) {
    if (server_ == nullptr || e == http::error::end_of_stream || e == beast::error::timeout)
      return close();
    if (e == http::error::header_limit)
      return refuse(http::status::request_header_fields_too_large);
    if (e == http::error::body_limit) return refuse(http::status::payload_too_large);
    if (e)
      return e.category() == http::make_error_code(http::error::bad_version).category()
                 ? refuse(http::status::bad_request)
                 : close();
    respond(make_response(parser_->get(), server_->hooks_));
  }

  void refuse(http::status status) {
    Response response{status, 11};
    response.keep_alive(false);
    response.prepare_payload();
    respond(std::move(response));
  }

  void respond(Response response) {
    response_ = std::move(response);
    stream_.expires_after(kHttpTimeout);
    http::async_write(stream_, response_, [self = shared_from_this()](error_code e, size_t) {
      if (e || self->server_ == nullptr || !self->response_.keep_alive()) return self->close();
      self->read();
    });
  }

  Impl* server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{kMaxHttpHeader + 4096};
  boost::optional<http::request_parser<http::empty_body>> parser_;
  Response response_;
};

void HealthListener::Impl::greet(tcp::socket socket) {
  if (connections_.size() >= kMaxHttpConnections) {
    log_.limited(LogLevel::kWarning, "metrics listener: too many connections",
                 {{"limit", kMaxHttpConnections}});
    return;
  }
  const auto connection = std::make_shared<Connection>(*this, std::move(socket));
  connections_.insert(connection);
  connection->read();
}

void HealthListener::Impl::close() {
  error_code ignored;
  acceptor_.close(ignored);
  for (const auto& connection : std::exchange(connections_, {}))
    connection->orphan();
}

HealthListener::HealthListener(asio::io_context& io, const TransportAddress& listen,
                               HealthHooks hooks, Logger& log)
    : impl_(std::make_shared<Impl>(io, std::move(hooks), log)) {
  impl_->open(listen);
  impl_->accept();
}

HealthListener::~HealthListener() {
  impl_->close();
}

TransportAddress HealthListener::address() const {
  return impl_->address();
}

}  // namespace culvert
