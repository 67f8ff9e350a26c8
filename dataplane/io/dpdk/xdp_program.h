// The XDP program of a net_af_xdp port beside the kernel (DESIGN 8): loading relay.bpf.c, telling
// it which addresses and UDP ports are the relay's, and putting it on the interface.
//
// DPDK's port driver attaches a program of its own that takes every frame of its queues. Ours
// replaces it, with that program's map of sockets. It is attached by a BPF link, which the kernel
// ends together with the process that holds it, however that ends: a relay never leaves a program
// behind. Needs CAP_NET_ADMIN and CAP_BPF (root) to attach, and nothing afterwards.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/api/snapshot.h"
#include "dataplane/io/dpdk/relay_bpf.h"

struct bpf_link;
struct bpf_object;

namespace culvert {

class XdpProgram {
 public:
  // Loads it for the snapshot's listeners and relayed ports, attached nowhere and without sockets.
  // Throws std::runtime_error with a sentence.
  explicit XdpProgram(const Snapshot& snapshot);
  // Takes the place and the sockets of the program that the port driver has attached to the
  // interface. Throws std::runtime_error with a sentence.
  XdpProgram(const Snapshot& snapshot, unsigned if_index);
  ~XdpProgram();
  XdpProgram(const XdpProgram&) = delete;
  XdpProgram& operator=(const XdpProgram&) = delete;

  // Frames by verdict (relay_verdict), of all CPUs. Zeros where the kernel does not tell.
  using Counts = std::array<uint64_t, RELAY_XDP_VERDICT_COUNT>;
  [[nodiscard]] Counts counts() const;

  // For tests: the program's descriptor, and the one of its map of sockets by queue.
  [[nodiscard]] int program_fd() const;
  [[nodiscard]] int sockets_fd() const;

  // Throws std::runtime_error when a program stands on the interface already: the port driver could
  // not attach its own.
  static void expect_none(unsigned if_index);

 private:
  struct CloseObject {
    void operator()(bpf_object* object) const;
  };
  struct EndLink {
    void operator()(bpf_link* link) const;
  };
  void load(const Snapshot& snapshot, int sockets_fd);

  std::unique_ptr<bpf_object, CloseObject> object_;
  std::unique_ptr<bpf_link, EndLink> link_;
};

// Before the port driver's libraries are used, while there is one thread: no dispatcher of libxdp's
// between an interface and the program that is replaced, and of both libraries' words only
// warnings.
void prepare_xdp_libraries();
// No more warnings: at their end the port driver and its libraries try to take off programs that
// are gone, without the rights to do so.
void silence_xdp_libraries();

// Receive queues of an interface that can have AF_XDP sockets; 0: it does not say.
[[nodiscard]] unsigned interface_queues(unsigned if_index);
[[nodiscard]] std::string interface_name(unsigned if_index);

}  // namespace culvert
