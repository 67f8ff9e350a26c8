#include "tools/culvertctl/pcapng.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "dataplane/base/endian.h"

namespace culvert {

namespace {

constexpr uint16_t kLinkTypeRaw = 101;
constexpr uint32_t kUdp = 17;

template <class T>
void add(std::string& to, T value) {  // in the machine's order, as the section header says
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  to.append(bytes, sizeof value);
}

void add_padded(std::string& to, std::string_view bytes) {
  to += bytes;
  to.append((4 - bytes.size() % 4) % 4, '\0');
}

void add_option(std::string& to, uint16_t code, std::string_view value) {
  add(to, code);
  add(to, static_cast<uint16_t>(value.size()));
  add_padded(to, value);
}

template <class T>
[[nodiscard]] std::string bytes_of(T value) {
  std::string out;
  add(out, value);
  return out;
}

[[nodiscard]] std::string block(uint32_t type, std::string body) {
  add_option(body, 0, {});
  const auto length = static_cast<uint32_t>(body.size() + 12);
  std::string out;
  add(out, type);
  add(out, length);
  out += body;
  add(out, length);
  return out;
}

void add_be16(std::string& to, uint32_t value) {
  to += static_cast<char>(value >> 8 & 255);
  to += static_cast<char>(value & 255);
}

[[nodiscard]] uint32_t sum16(std::string_view bytes, uint32_t sum = 0) {
  for (size_t i = 0; i < bytes.size(); ++i)
    sum += static_cast<uint32_t>(static_cast<uint8_t>(bytes[i])) << (i % 2 == 0 ? 8 : 0);
  return sum;
}

[[nodiscard]] uint16_t folded(uint32_t sum) {
  while (sum > 0xffff)
    sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

[[nodiscard]] std::string address_bytes(const IpAddress& ip) {
  return {reinterpret_cast<const char*>(ip.wire()), ip.size()};
}

[[nodiscard]] std::string ip_header(const CapturedDatagram& d, uint32_t udp_length) {
  std::string out;
  if (d.from.ip.is_v4()) {
    out += '\x45';
    out += static_cast<char>(d.tos);
    add_be16(out, 20 + udp_length);
    out.append(4, '\0');  // identification, fragment
    out += static_cast<char>(d.ttl);
    out += static_cast<char>(kUdp);
    out.append(2, '\0');
    out += address_bytes(d.from.ip) + address_bytes(d.to.ip);
    const uint16_t checksum = folded(sum16(out));
    out[10] = static_cast<char>(checksum >> 8);
    out[11] = static_cast<char>(checksum & 255);
    return out;
  }
  add_be16(out, 0x6000u | static_cast<uint32_t>(d.tos) << 4);
  add_be16(out, 0);
  add_be16(out, udp_length);
  out += static_cast<char>(kUdp);
  out += static_cast<char>(d.ttl);
  return out + address_bytes(d.from.ip) + address_bytes(d.to.ip);
}

[[nodiscard]] std::string udp_packet(const CapturedDatagram& d) {
  const uint32_t udp_length = 8u + d.length;
  const std::string payload(reinterpret_cast<const char*>(d.bytes.data()), d.bytes.size());
  std::string udp;
  add_be16(udp, d.from.port);
  add_be16(udp, d.to.port);
  add_be16(udp, udp_length);
  udp.append(2, '\0');
  udp += payload;
  if (d.bytes.size() == d.length) {
    uint32_t sum = sum16(address_bytes(d.from.ip) + address_bytes(d.to.ip)) + kUdp + udp_length;
    uint16_t checksum = folded(sum16(udp, sum));
    if (checksum == 0) checksum = 0xffff;
    udp[6] = static_cast<char>(checksum >> 8);
    udp[7] = static_cast<char>(checksum & 255);
  }
  return ip_header(d, udp_length) + udp;
}

}  // namespace

PcapngWriter::PcapngWriter(const std::string& path) : path_(path) {
  if (path == "-") {
    out_ = stdout;
  } else {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) out_ = fdopen(fd, "w");
    if (out_ == nullptr)
      throw std::runtime_error("cannot make " + path + ": " + std::strerror(errno));
  }
  std::string section;
  add(section, uint32_t{0x1a2b3c4d});
  add(section, uint16_t{1});  // version 1.0
  add(section, uint16_t{0});
  add(section, int64_t{-1});  // length not stated
  add_option(section, 4,
             "culvertctl capture: IP and UDP headers are made up from what the relay saw");
  put(block(0x0a0d0d0a, section));
  std::string interface;
  add(interface, kLinkTypeRaw);
  add(interface, uint16_t{0});
  add(interface, uint32_t{0});  // no snap length
  add_option(interface, 2, "culvertd");
  add_option(interface, 9, std::string(1, '\x09'));  // nanoseconds
  put(block(1, interface));
}

PcapngWriter::~PcapngWriter() {
  if (out_ != nullptr && out_ != stdout) (void)std::fclose(out_);
}

void PcapngWriter::put(const std::string& bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), out_) != bytes.size())
    throw std::runtime_error("cannot write " + path_ + ": " + std::strerror(errno));
}

void PcapngWriter::write(const CapturedDatagram& d) {
  const std::string packet = udp_packet(d);
  const auto missing = static_cast<uint32_t>(d.length - d.bytes.size());
  std::string body;
  add(body, uint32_t{0});  // the interface
  add(body, static_cast<uint32_t>(d.unix_ns >> 32));
  add(body, static_cast<uint32_t>(d.unix_ns));
  add(body, static_cast<uint32_t>(packet.size()));
  add(body, static_cast<uint32_t>(packet.size()) + missing);
  add_padded(body, packet);
  add_option(body, 1, d.comment);
  add_option(body, 2, bytes_of(uint32_t{d.sent ? 2u : 1u}));  // inbound 1, outbound 2
  put(block(6, body));
}

void PcapngWriter::finish() {
  if (std::fflush(out_) != 0 || (out_ != stdout && fsync(fileno(out_)) != 0 && errno != EINVAL))
    throw std::runtime_error("cannot write " + path_ + ": " + std::strerror(errno));
}

}  // namespace culvert
