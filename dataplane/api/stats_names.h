// What CoreStats' and PortStats' numbers are called: in the stats segment (and so in culvertctl),
// on the control socket and on the metrics page. One list, so that they cannot differ.
#pragma once

#include "dataplane/api/stats.h"

namespace culvert {

enum class CounterKind : uint8_t {
  kCounter = 0,  // since start
  kGauge = 1,
  kCycles = 2,  // a counter in cycles of the time-stamp counter
};

template <class Stats>
struct CounterInfo {
  const char* name;
  const char* metric;
  CounterKind kind;
  const char* help;
  Counter Stats::*counter;
};
using CoreCounterInfo = CounterInfo<CoreStats>;
using PortCounterInfo = CounterInfo<PortStats>;

inline constexpr CoreCounterInfo kCoreCounters[] = {
    {"received_packets", "culvert_received_packets_total", CounterKind::kCounter,
     "Datagrams received.", &CoreStats::received_packets},
    {"received_bytes", "culvert_received_bytes_total", CounterKind::kCounter,
     "UDP payload bytes received.", &CoreStats::received_bytes},
    {"sent_packets", "culvert_sent_packets_total", CounterKind::kCounter, "Datagrams sent.",
     &CoreStats::sent_packets},
    {"sent_bytes", "culvert_sent_bytes_total", CounterKind::kCounter, "UDP payload bytes sent.",
     &CoreStats::sent_bytes},
    {"send_failed", "culvert_send_failed_total", CounterKind::kCounter,
     "Datagrams that the driver could not send.", &CoreStats::send_failed},
    {"hairpin_passes", "culvert_hairpin_passes_total", CounterKind::kCounter,
     "Datagrams that entered the path a second time.", &CoreStats::hairpin_passes},
    {"handed_in", "culvert_handed_in_total", CounterKind::kCounter,
     "Datagrams that came from another core.", &CoreStats::handed_in},
    {"reply_bytes_in", "culvert_unauthenticated_request_bytes_total", CounterKind::kCounter,
     "Unauthenticated requests answered, bytes with IP and UDP headers.",
     &CoreStats::reply_bytes_in},
    {"reply_bytes_out", "culvert_unauthenticated_reply_bytes_total", CounterKind::kCounter,
     "Answers to unauthenticated requests, bytes with IP and UDP headers.",
     &CoreStats::reply_bytes_out},
    {"challenge_refunds", "culvert_challenge_refunds_total", CounterKind::kCounter,
     "Challenges whose cost was given back because the client completed.",
     &CoreStats::challenge_refunds},
    {"allocations", "culvert_core_allocations", CounterKind::kGauge,
     "Live allocations on the core.", &CoreStats::allocations},
    {"permissions", "culvert_core_permissions", CounterKind::kGauge,
     "Live permissions on the core.", &CoreStats::permissions},
    {"channels", "culvert_core_channels", CounterKind::kGauge, "Live channel bindings on the core.",
     &CoreStats::channels},
    {"open_ports", "culvert_core_open_ports", CounterKind::kGauge,
     "Relayed ports open on the core.", &CoreStats::open_ports},
    {"loops", "culvert_core_loops_total", CounterKind::kCounter, "Turns of the core's loop.",
     &CoreStats::loops},
    {"idle_loops", "culvert_core_idle_loops_total", CounterKind::kCounter,
     "Turns that found nothing to do.", &CoreStats::idle_loops},
    {"sleeps", "culvert_core_sleeps_total", CounterKind::kCounter, "Times the core went to sleep.",
     &CoreStats::sleeps},
    {"busy_cycles", "culvert_core_busy_seconds_total", CounterKind::kCycles,
     "Time in turns of the loop that found work.", &CoreStats::busy_cycles},
    {"sleep_cycles", "culvert_core_sleep_seconds_total", CounterKind::kCycles, "Time asleep.",
     &CoreStats::sleep_cycles},
    {"heap_bytes", "culvert_core_heap_bytes_total", CounterKind::kCounter,
     "Bytes taken from the heap since the core's loop began; stays 0.", &CoreStats::heap_bytes},
    {"commands_applied", "culvert_core_commands_applied_total", CounterKind::kCounter,
     "Commands of control applied.", &CoreStats::commands_applied},
    {"commands_failed", "culvert_core_commands_failed_total", CounterKind::kCounter,
     "Commands of control that could not be applied.", &CoreStats::commands_failed},
    {"trace_lost", "culvert_core_trace_lost_total", CounterKind::kCounter,
     "Records of a packet trace lost because their reader was too slow.", &CoreStats::trace_lost},
    {"events_dropped", "culvert_core_events_dropped_total", CounterKind::kCounter,
     "Events lost because the ring to control was full.", &CoreStats::events_dropped},
};

inline constexpr PortCounterInfo kPortCounters[] = {
    {"received_packets", "culvert_port_received_packets_total", CounterKind::kCounter,
     "Frames received by the port.", &PortStats::received_packets},
    {"received_bytes", "culvert_port_received_bytes_total", CounterKind::kCounter,
     "Bytes of frames received by the port.", &PortStats::received_bytes},
    {"sent_packets", "culvert_port_sent_packets_total", CounterKind::kCounter,
     "Frames sent by the port.", &PortStats::sent_packets},
    {"sent_bytes", "culvert_port_sent_bytes_total", CounterKind::kCounter,
     "Bytes of frames sent by the port.", &PortStats::sent_bytes},
    {"missed", "culvert_port_missed_packets_total", CounterKind::kCounter,
     "Frames the port dropped because no core took them in time (imissed).", &PortStats::missed},
    {"no_buffer", "culvert_port_no_buffer_total", CounterKind::kCounter,
     "Frames the port dropped for want of a buffer (rx_nombuf).", &PortStats::no_buffer},
    {"receive_errors", "culvert_port_receive_errors_total", CounterKind::kCounter,
     "Frames the port received damaged or refused (ierrors).", &PortStats::receive_errors},
    {"send_errors", "culvert_port_send_errors_total", CounterKind::kCounter,
     "Frames the port failed to send (oerrors).", &PortStats::send_errors},
    {"link_up", "culvert_port_link_up", CounterKind::kGauge, "1 while the port's link is up.",
     &PortStats::link_up},
    {"xdp_redirected", "culvert_port_xdp_redirected_total", CounterKind::kCounter,
     "Frames that the XDP program gave to the relay.", &PortStats::xdp_redirected},
    {"xdp_passed", "culvert_port_xdp_passed_total", CounterKind::kCounter,
     "Frames that the XDP program left to the kernel.", &PortStats::xdp_passed},
    {"xdp_malformed", "culvert_port_xdp_malformed_total", CounterKind::kCounter,
     "Frames left to the kernel because they were cut short or said impossible lengths.",
     &PortStats::xdp_malformed},
    {"xdp_no_socket", "culvert_port_xdp_no_socket_total", CounterKind::kCounter,
     "Frames for the relay left to the kernel because no core serves their queue.",
     &PortStats::xdp_no_socket},
};

}  // namespace culvert
