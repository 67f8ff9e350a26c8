// What the XDP program (relay.bpf.c) and the code that loads it (xdp_program.cc) share: the layout
// of its maps and the verdicts it counts. Plain C.
#pragma once

#include <linux/types.h>

// X(name, to us, text). The program counts each frame under exactly one.
#define RELAY_XDP_VERDICTS(X)                                                           \
  X(udp, 1, "UDP to a listener or a relayed port")                                      \
  X(first_fragment, 1, "first fragment of such a datagram")                             \
  X(later_fragment, 1, "later fragment, whose first one was ours")                      \
  X(icmp_error, 1, "ICMP error about a datagram from a listener or a relayed port")     \
  X(other, 0, "anything else: ARP, neighbour discovery, echo, TCP, VLANs, foreign UDP") \
  X(malformed, 0, "truncated or with impossible lengths")                               \
  X(no_socket, 0, "ours, but it came by a queue that the relay does not serve")

enum relay_verdict {
#define X(name, to_us, text) RELAY_XDP_##name,
  RELAY_XDP_VERDICTS(X)
#undef X
      RELAY_XDP_VERDICT_COUNT
};

// In network order; IPv4 in v4-mapped form (::ffff:a.b.c.d).
struct relay_ip {
  __u8 bytes[16];
};

// UDP ports of one address, a bit for each.
#define RELAY_PORT_WORDS 1024
struct relay_ports {
  __u64 words[RELAY_PORT_WORDS];
};

// First fragments of ours, so that later ones, which name no port, follow them. The table forgets
// what was not used for the longest time.
#define RELAY_MAX_FRAGMENTED 4096
struct relay_fragmented {
  struct relay_ip source;
  struct relay_ip destination;
  __u32 identification;
};
