// Writes datagrams as a capture file (pcapng, draft-ietf-opsawg-pcapng) that Wireshark and tcpdump
// read. What the relay sees are UDP payloads with addresses, so IP and UDP headers are made up here
// from what it knows: link type RAW, no Ethernet, identification 0, the received TTL, a UDP
// checksum only where the whole payload is there. Each packet says in a comment which core had it
// and what became of it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>

#include "dataplane/base/address.h"

namespace culvert {

struct CapturedDatagram {
  uint64_t unix_ns = 0;
  TransportAddress from, to;
  uint16_t length = 0;             // of the UDP payload
  std::span<const uint8_t> bytes;  // what was taken of it
  uint8_t ttl = 64;
  uint8_t tos = 0;
  bool sent = false;  // by the relay; else received
  std::string comment;
};

class PcapngWriter {
 public:
  // `path`: "-" is standard output; a file must not exist yet and is readable for its owner alone.
  // Throws std::runtime_error with a sentence.
  explicit PcapngWriter(const std::string& path);
  ~PcapngWriter();
  PcapngWriter(const PcapngWriter&) = delete;
  PcapngWriter& operator=(const PcapngWriter&) = delete;

  void write(const CapturedDatagram& datagram);
  // Everything is in the file; throws when it is not.
  void finish();

 private:
  void put(const std::string& bytes);

  std::string path_;
  FILE* out_ = nullptr;
};

}  // namespace culvert
