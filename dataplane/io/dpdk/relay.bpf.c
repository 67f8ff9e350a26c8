// The XDP program on an AF_XDP port whose addresses the kernel has too: UDP of the relay goes to
// the relay's sockets, and everything else passes to the kernel as if nobody were there. Compiled
// by `clang -target bpf`, embedded in culvertd, loaded by xdp_program.cc.
//
// To the relay: UDP to an (address, port) pair of the map `addresses`; fragments of such datagrams;
// ICMP errors that quote a datagram from such a pair (the kernel, which has no socket there, would
// only ignore them). Of fragments only the first one names a port: it decides for the datagram, and
// later ones follow it by source, destination and identification (RFC 791, RFC 8200 section 4.5).
// One that overtakes its first goes to the kernel, so that datagram is lost to the relay, and the
// kernel's own fragmented UDP stays the kernel's.
//
// Frames are not trusted: each byte is read after a check against the frame's end and against the
// packet's own length, and what does not add up is the kernel's to judge. Checksums are not looked
// at; the driver verifies them. Group link addresses and VLAN tags are the kernel's.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "relay_bpf.h"

#define INLINE static __always_inline

// As in dataplane/wire/frame.h: what the relay itself would not take, it does not get.
#define MAX_EXTENSION_HEADERS 5
#define MAX_EXTENSION_BYTES 256
#define MORE_FRAGMENTS 0x2000
#define FRAGMENT_OFFSET 0x1fff

// The port driver's sockets, by queue. Its map takes this one's place when the program is loaded.
struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u32);
} xsks_map SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_RDONLY_PROG);
  __type(key, struct relay_ip);
  __type(value, struct relay_ports);
} addresses SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, RELAY_MAX_FRAGMENTED);
  __type(key, struct relay_fragmented);
  __type(value, __u8);
} fragmented SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, RELAY_XDP_VERDICT_COUNT);
  __type(key, __u32);
  __type(value, __u64);
} verdicts SEC(".maps");

INLINE void count(__u32 verdict) {
  __u64* counter = bpf_map_lookup_elem(&verdicts, &verdict);
  if (counter) ++*counter;
}

INLINE int to_kernel(enum relay_verdict verdict) {
  count(verdict);
  return XDP_PASS;
}

INLINE int to_relay(struct xdp_md* ctx, enum relay_verdict verdict) {
  const int action = bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_PASS);
  count(action == XDP_REDIRECT ? verdict : RELAY_XDP_no_socket);
  return action;
}

INLINE int is_ours(const struct relay_ports* own, __be16 port) {
  const __u32 p = bpf_ntohs(port);
  return own->words[p >> 6] >> (p & 63) & 1;
}

INLINE void set_v4(struct relay_ip* to, __be32 ip) {
  __builtin_memset(to->bytes, 0, 10);
  __builtin_memset(to->bytes + 10, 0xff, 2);
  __builtin_memcpy(to->bytes + 12, &ip, 4);
}

// `room`: bytes of the packet from `udp` on.
INLINE int take_udp(struct xdp_md* ctx, const struct relay_ports* own, const struct udphdr* udp,
                    const void* end, __u32 room) {
  if ((const void*)(udp + 1) > end) return to_kernel(RELAY_XDP_malformed);
  const __u32 length = bpf_ntohs(udp->len);
  if (length < sizeof(*udp) || length > room) return to_kernel(RELAY_XDP_malformed);
  return is_ours(own, udp->dest) ? to_relay(ctx, RELAY_XDP_udp) : to_kernel(RELAY_XDP_other);
}

INLINE int take_first_fragment(struct xdp_md* ctx, const struct relay_ports* own,
                               const struct relay_fragmented* key, const struct udphdr* udp,
                               const void* end, __u32 room) {
  if (room < sizeof(*udp) || (const void*)(udp + 1) > end) return to_kernel(RELAY_XDP_malformed);
  if (!is_ours(own, udp->dest)) {
    // The identification may have been that of a datagram of ours before.
    bpf_map_delete_elem(&fragmented, key);
    return to_kernel(RELAY_XDP_other);
  }
  const __u8 seen = 1;
  bpf_map_update_elem(&fragmented, key, &seen, BPF_ANY);
  return to_relay(ctx, RELAY_XDP_first_fragment);
}

INLINE int take_later_fragment(struct xdp_md* ctx, const struct relay_fragmented* key) {
  return bpf_map_lookup_elem(&fragmented, key) ? to_relay(ctx, RELAY_XDP_later_fragment)
                                               : to_kernel(RELAY_XDP_other);
}

// `icmp`: 8 bytes of header, then the quoted packet, which must have come from `ip`'s destination.
INLINE int take_icmp(struct xdp_md* ctx, const struct relay_ports* own, const struct iphdr* ip,
                     const __u8* icmp, const void* end, __u32 room) {
  const struct iphdr* quoted = (const struct iphdr*)(icmp + 8);
  if ((const void*)(icmp + 8) > end || room < 8) return to_kernel(RELAY_XDP_malformed);
  // Unreachable, source quench, time exceeded, parameter problem (RFC 792).
  const __u8 type = icmp[0];
  if (type != 3 && type != 4 && type != 11 && type != 12) return to_kernel(RELAY_XDP_other);
  if ((const void*)(quoted + 1) > end) return to_kernel(RELAY_XDP_malformed);
  const __u32 header = quoted->ihl * 4u;
  if (quoted->version != 4 || header < sizeof(*quoted) || room < 8 + header + sizeof(struct udphdr))
    return to_kernel(RELAY_XDP_malformed);
  if (quoted->protocol != IPPROTO_UDP || quoted->saddr != ip->daddr ||
      (quoted->frag_off & bpf_htons(FRAGMENT_OFFSET)) != 0)
    return to_kernel(RELAY_XDP_other);
  const struct udphdr* udp = (const struct udphdr*)((const __u8*)quoted + header);
  if ((const void*)(udp + 1) > end) return to_kernel(RELAY_XDP_malformed);
  return is_ours(own, udp->source) ? to_relay(ctx, RELAY_XDP_icmp_error)
                                   : to_kernel(RELAY_XDP_other);
}

INLINE int take_ipv4(struct xdp_md* ctx, const struct iphdr* ip, const void* end) {
  if ((const void*)(ip + 1) > end) return to_kernel(RELAY_XDP_malformed);
  const __u32 header = ip->ihl * 4u;
  const __u32 total = bpf_ntohs(ip->tot_len);
  if (ip->version != 4 || header < sizeof(*ip) || total < header ||
      total > (__u64)(end - (const void*)ip))
    return to_kernel(RELAY_XDP_malformed);
  struct relay_fragmented key = {};
  set_v4(&key.destination, ip->daddr);
  const struct relay_ports* own = bpf_map_lookup_elem(&addresses, &key.destination);
  if (!own) return to_kernel(RELAY_XDP_other);

  const __u8* upper = (const __u8*)ip + header;
  const __u32 room = total - header;
  const __u16 fragment = bpf_ntohs(ip->frag_off) & (MORE_FRAGMENTS | FRAGMENT_OFFSET);
  if (ip->protocol == IPPROTO_UDP) {
    if (fragment == 0) return take_udp(ctx, own, (const struct udphdr*)upper, end, room);
    set_v4(&key.source, ip->saddr);
    key.identification = ip->id;
    return (fragment & FRAGMENT_OFFSET) == 0
               ? take_first_fragment(ctx, own, &key, (const struct udphdr*)upper, end, room)
               : take_later_fragment(ctx, &key);
  }
  if (ip->protocol == IPPROTO_ICMP && fragment == 0)
    return take_icmp(ctx, own, ip, upper, end, room);
  return to_kernel(RELAY_XDP_other);
}

INLINE int same_ip(const struct in6_addr* a, const struct in6_addr* b) {
  return a->s6_addr32[0] == b->s6_addr32[0] && a->s6_addr32[1] == b->s6_addr32[1] &&
         a->s6_addr32[2] == b->s6_addr32[2] && a->s6_addr32[3] == b->s6_addr32[3];
}

// The relay sends no extension headers, so a quoted packet of its own has none.
INLINE int take_icmpv6(struct xdp_md* ctx, const struct relay_ports* own, const struct ipv6hdr* ip,
                       const __u8* icmp, const void* end, __u32 room) {
  const struct ipv6hdr* quoted = (const struct ipv6hdr*)(icmp + 8);
  const struct udphdr* udp = (const struct udphdr*)(quoted + 1);
  if ((const void*)(icmp + 8) > end || room < 8) return to_kernel(RELAY_XDP_malformed);
  // Unreachable, too big, time exceeded, parameter problem (RFC 4443).
  if (icmp[0] < 1 || icmp[0] > 4) return to_kernel(RELAY_XDP_other);
  if ((const void*)(udp + 1) > end || room < 8 + sizeof(*quoted) + sizeof(*udp))
    return to_kernel(RELAY_XDP_malformed);
  if (quoted->version != 6) return to_kernel(RELAY_XDP_malformed);
  if (quoted->nexthdr != IPPROTO_UDP || !same_ip(&quoted->saddr, &ip->daddr))
    return to_kernel(RELAY_XDP_other);
  return is_ours(own, udp->source) ? to_relay(ctx, RELAY_XDP_icmp_error)
                                   : to_kernel(RELAY_XDP_other);
}

INLINE int take_fragment_v6(struct xdp_md* ctx, const struct relay_ports* own,
                            const struct ipv6hdr* ip, const __u8* header, const void* end,
                            __u32 room) {
  if (header[0] != IPPROTO_UDP) return to_kernel(RELAY_XDP_other);
  struct relay_fragmented key;
  __builtin_memcpy(&key.source, &ip->saddr, sizeof(key.source));
  __builtin_memcpy(&key.destination, &ip->daddr, sizeof(key.destination));
  __builtin_memcpy(&key.identification, header + 4, sizeof(key.identification));
  const __u16 offset = (__u16)(header[2] << 8 | header[3]) & 0xfff8;
  return offset == 0 ? take_first_fragment(ctx, own, &key, (const struct udphdr*)(header + 8), end,
                                           room - 8)
                     : take_later_fragment(ctx, &key);
}

INLINE int take_ipv6(struct xdp_md* ctx, const struct ipv6hdr* ip, const void* end) {
  if ((const void*)(ip + 1) > end) return to_kernel(RELAY_XDP_malformed);
  const __u32 payload = bpf_ntohs(ip->payload_len);
  if (ip->version != 6 || payload > (__u64)(end - (const void*)(ip + 1)))
    return to_kernel(RELAY_XDP_malformed);
  struct relay_ip destination;
  __builtin_memcpy(&destination, &ip->daddr, sizeof(destination));
  const struct relay_ports* own = bpf_map_lookup_elem(&addresses, &destination);
  if (!own) return to_kernel(RELAY_XDP_other);

  __u32 offset = 0;  // of the upper layer, from the end of the fixed header
  __u8 protocol = ip->nexthdr;
#pragma unroll
  for (int i = 0; i <= MAX_EXTENSION_HEADERS; ++i) {
    if (offset > MAX_EXTENSION_BYTES || offset > payload) return to_kernel(RELAY_XDP_malformed);
    const __u8* at = (const __u8*)(ip + 1) + offset;
    const __u32 room = payload - offset;
    if (protocol == IPPROTO_UDP) return take_udp(ctx, own, (const struct udphdr*)at, end, room);
    if (protocol == IPPROTO_ICMPV6) return take_icmpv6(ctx, own, ip, at, end, room);
    const int fragment = protocol == IPPROTO_FRAGMENT;
    if (!fragment && protocol != IPPROTO_HOPOPTS && protocol != IPPROTO_ROUTING &&
        protocol != IPPROTO_DSTOPTS)
      return to_kernel(RELAY_XDP_other);
    if ((const void*)(at + 8) > end || room < 8) return to_kernel(RELAY_XDP_malformed);
    // An atomic fragment (RFC 6946) is a whole packet.
    if (fragment && ((at[2] << 8 | at[3]) & 0xfff9) != 0)
      return take_fragment_v6(ctx, own, ip, at, end, room);
    protocol = at[0];
    offset += fragment ? 8 : (at[1] + 1u) * 8;
  }
  return to_kernel(RELAY_XDP_malformed);
}

SEC("xdp")
int culvert_relay(struct xdp_md* ctx) {
  const void* data = (const void*)(long)ctx->data;
  const void* end = (const void*)(long)ctx->data_end;
  const struct ethhdr* ethernet = data;
  if ((const void*)(ethernet + 1) > end) return to_kernel(RELAY_XDP_malformed);
  if (ethernet->h_dest[0] & 1) return to_kernel(RELAY_XDP_other);  // a group's
  if (ethernet->h_proto == bpf_htons(ETH_P_IP))
    return take_ipv4(ctx, (const struct iphdr*)(ethernet + 1), end);
  if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
    return take_ipv6(ctx, (const struct ipv6hdr*)(ethernet + 1), end);
  return to_kernel(RELAY_XDP_other);
}

char _license[] SEC("license") = "Apache-2.0";
