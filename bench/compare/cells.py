"""The cells of the comparison: what is offered to each server and which figure counts.

A cell is one culvert-load command and one figure of its JSON. Cells are grouped as the report's
sections are. `higher` says which way is better; `bound` names the bare loop's mode for cells where
one exists. The cells of a curve differ in one number, `x`, and share their server processes, so
that a curve's points see the same server in the same state.
"""
from dataclasses import dataclass, field


@dataclass
class Cell:
    group: str
    name: str
    args: list
    figure: str
    unit: str
    higher: bool = True
    bound: str = ""
    rounds: int = 0  # 0: the plan's
    fresh: bool = False  # a new server process for every round
    sockets: int = 32  # relayed ports that the bare loop must open
    duration: float = 0  # 0: the plan's
    warm_up: float = -1
    x: float = 0  # a point of a curve: where it stands
    # Who runs it: names of PORT_CONTENDERS and of servers on sockets; none: all of the latter.
    who: tuple = ()
    own_args: dict = field(default_factory=dict)  # of one of them, after args
    # The rate is this share of what the slowest of the names did in the cell: (share, cell, names).
    rate_of: tuple = ()
    flood_of: tuple = ()  # the same for a flood's rate
    near: bool = False  # only rounds in which the two CPUs were near each other count


# Section titles, in the report's order.
GROUPS = {
    "throughput": "Packets per CPU-second, flows interleaved",
    "runs": "Packets per CPU-second, runs of 8 of one flow, sent singly",
    "gso": "Packets per CPU-second, runs of 8 of one flow, sent by GSO to peers that take GRO",
    "load": "Offered load: what arrives, how late, and what it costs",
    "latency": "Latency at 20,000 packets a second",
    "clients": "Scaling with clients",
    "flows": "Scaling with flows",
    "churn": "Complete authenticated allocations per CPU-second",
    "memory": "Memory",
    "port": "A port of our own: memif, one core, against testpmd 5tswap",
    "port_cpu": "Packets per CPU-second: a port of our own against coturn on kernel sockets",
    "port_delay": "Latency on memif at half of the slower one's rate",
    "xdp": "AF_XDP on veth, one core, against testpmd macswap",
    "flood": "Spoofed Allocates at 100 % of the core's rate beside 30 % of legitimate traffic",
    "port_cores": "Two fast cores on memif",
    "port_kinds": "What each kind of traffic costs on a port without a wire",
}
# What ratios of a group are against, where it is not coturn.
BASES = {"port": "testpmd", "port_delay": "testpmd", "xdp": "testpmd",
         "flood": "culvert alone", "port_cores": "1 core", "port_kinds": ""}
# What one must know to read a group's figures.
NOTES = {
    "port": "The server on one CPU, the generator on the other. Only rounds count in which a cache "
            "line went from CPU to CPU and back within 200 ns before and after, and in which the "
            "server had at least 98 % of its CPU: this machine's host moves its CPUs, and memif's "
            "figures with them. testpmd looks at nothing but the headers it swaps.",
    "port_cpu": "Not the same work in the same place: culvert's datagrams come and go by shared "
                "memory and cost no system call, coturn's pass the kernel, whose time is coturn's. "
                "coturn has 32 allocations, with which it is fastest, and not 16,384.",
    "port_delay": "Both at the same rate, half of what the slower one forwarded in the section "
                  "above. The scheduler is in the tail of both.",
    "xdp": "The kernel copies every frame at both ends; that, not the relay, is what the figure "
           "shows. macswap exchanges link addresses only. Rounds count as in the section on memif.",
    "flood": "Forged addresses, each datagram another one; answers are paid from the reply budget. "
             "Delivered: of the legitimate datagrams that were due.",
    "port_cores": "The two fast cores share one CPU, the generator has the other: this shows that "
                  "hand-over is correct and what it costs, not what a second core brings. In "
                  "set-up and tear-down some is always handed over: a client's requests belong to "
                  "the core that its hash names, whichever queue they come by.",
    "port_kinds": "bench/macro/dpdk_memory_port: two programs on one CPU take turns; frames of 200 "
                   "bytes come out of memory for ever, and what is sent is freed.",
}
# Groups whose cells are the points of curves: what their x is.
CURVES = {
    "load": "packets offered a second",
    "clients": "allocations (one channel each), 200 B to peer",
    "flows": "channels of 32 allocations together, 200 B to peer",
}

PER_CPU = "server.per_cpu_second"
PER_CPU_UNIT = "packets/CPU-s"
LOAD_KPPS = (10, 20, 40, 80, 120, 160)
LOAD_KPPS_QUICK = (10, 40, 140)
CLIENTS = (10, 32, 100, 320, 1000, 3200)
CHANNELS = (1, 2, 4, 8, 16, 32)


def throughput(clients, size, direction):
    return Cell("throughput", f"{clients} allocations, {size} B, {direction}",
                ["relay", "--unpaced", "--clients", str(clients), "--size", str(size),
                 "--direction", direction],
                PER_CPU, PER_CPU_UNIT, bound="single", sockets=clients)


def runs(size, direction, gso):
    args = ["relay", "--unpaced", "--clients", "32", "--size", str(size), "--direction", direction,
            "--run-length", "8"]
    return Cell("gso" if gso else "runs", f"32 allocations, {size} B, {direction}",
                args + (["--gso"] if gso else []), PER_CPU, PER_CPU_UNIT, bound="gso")


def paced(kpps):
    return ["relay", "--rate", str(kpps * 1000), "--clients", "100", "--size", "200",
            "--direction", "both"]


def latency(rounds):
    return Cell("latency", "100 allocations, 200 B, both directions", paced(20), "latency.both",
                "us", higher=False, rounds=rounds, bound="single", sockets=100)


def load(kpps, rounds):
    return Cell("load", f"{kpps} kpps, 100 allocations, 200 B, both", paced(kpps), "received_per_s",
                "packets/s", rounds=rounds, x=kpps * 1000, bound="single", sockets=100)


def clients(count, rounds):
    return Cell("clients", f"{count} allocations",
                ["relay", "--unpaced", "--clients", str(count), "--size", "200",
                 "--direction", "to-peer"],
                PER_CPU, PER_CPU_UNIT, rounds=rounds, x=count, bound="single", sockets=count)


def flows(channels, rounds):
    return Cell("flows", f"32 allocations with {channels} channels each",
                ["relay", "--unpaced", "--clients", "32", "--channels", str(channels), "--peers",
                 "32", "--size", "200", "--direction", "to-peer"],
                PER_CPU, PER_CPU_UNIT, rounds=rounds, x=32 * channels)


def churn(count):
    # SHA-1 for all: coturn knows nothing newer.
    return Cell("churn", f"{count} in progress at once, SHA-1",
                ["churn", "--clients", str(count), "--rfc5389"], PER_CPU, "allocations/CPU-s")


def memory(requests, seconds):
    return [
        Cell("memory", f"growth by {requests:,} unauthenticated Allocates",
             ["hostile", "--attack", "allocate", "--count", str(requests), "--rate", "12500"],
             "rss.growth_after", "MB", higher=False, rounds=2, fresh=True, duration=seconds,
             warm_up=0),
        Cell("memory", "growth by 1000 idle allocations, 1 channel each",
             ["idle", "--clients", "1000"],
             "rss.growth_ready", "MB", higher=False, rounds=2, fresh=True, duration=1,
             warm_up=0),
    ]


CHANNELS_OF_CLIENT = 4
PORT_SIZE = 150  # of the payload: frames of 200 bytes with Ethernet's FCS


def port_args(clients):
    return ["relay", "--clients", str(clients), "--channels", str(CHANNELS_OF_CLIENT), "--peers",
            "256", "--size", str(PORT_SIZE), "--direction", "to-peer"]


def port(clients, rounds, fewer):
    """Against testpmd, and coturn in the same session; `fewer`: rounds of all but the first."""
    flows = f"{clients * CHANNELS_OF_CLIENT:,} flows, 200-byte frames"
    args = port_args(clients) + ["--unpaced"]
    cells = [
        Cell("port", flows, args, "received_per_s", "packets/s", rounds=rounds, fresh=True,
             who=("culvert", "testpmd"), near=True),
        Cell("port_cpu", flows, args, PER_CPU, PER_CPU_UNIT, rounds=fewer,
             fresh=True, who=("culvert", "coturn"), own_args={"coturn": [
                 "relay", "--clients", "32", "--size", str(PORT_SIZE), "--direction", "to-peer",
                 "--unpaced"]}),
        Cell("port_delay", flows, port_args(clients), "latency.both", "us", higher=False,
             rounds=fewer, fresh=True, who=("culvert", "testpmd"),
             rate_of=(0.5, "port", ("culvert", "testpmd"))),
    ]
    both = ("culvert alone", "culvert flooded")
    cells += [Cell("flood", f"legitimate: {flows}", port_args(clients), "flood", "", rounds=rounds,
                   fresh=True, who=both, rate_of=(0.3, "port", ("culvert",)),
                   flood_of=(1.0, "port", ("culvert",)), near=True)]
    return cells


def port_cores(clients, rounds):
    """Blasted, and at a rate that both cores can carry on the one CPU they share."""
    who = ("1 core", "2 cores, owner's queue", "2 cores, wrong queue")
    return [Cell("port_cores", "unpaced", port_args(clients) + ["--unpaced"], "handoff", "",
                 rounds=rounds, fresh=True, who=who),
            Cell("port_cores", "at 3 % of one core's rate", port_args(clients), "handoff", "",
                 rounds=rounds, fresh=True, who=who, rate_of=(0.03, "port", ("culvert",)))]


def xdp(rounds):
    return Cell("xdp", "1,024 flows, 200-byte frames", port_args(256) + ["--unpaced"],
                "received_per_s", "packets/s", rounds=rounds, fresh=True,
                who=("culvert on AF_XDP", "testpmd on AF_XDP"), near=True)


def memory_port(turns, seconds, only=()):
    """One cell for all: bench/macro/dpdk_memory_port alternates by itself."""
    return [Cell("port_kinds", "ratios", [str(turns), str(seconds), *only], "ratio", "ratio",
                 who=("port_kinds",), duration=len(only) or 11)]


def full_plan():
    cells = [throughput(a, s, d) for a in (32, 1000) for s in (120, 200, 1200)
             for d in ("to-peer", "to-client")]
    cells += [runs(s, d, gso) for gso, s in ((False, 200), (True, 200), (True, 1200))
              for d in ("to-peer", "to-client")]
    cells += [load(k, 4) for k in LOAD_KPPS]
    cells += [latency(8)]
    cells += [clients(c, 4) for c in CLIENTS] + [flows(c, 4) for c in CHANNELS]
    return (cells + [churn(32)] + memory(50000, 6) + port(16384, 10, 5)
            + port_cores(16384, 3) + [xdp(16)]
            + memory_port(8, 0.2))


def quick_plan():
    cells = [throughput(32, 200, "to-peer"), throughput(32, 200, "to-client"),
             throughput(1000, 120, "to-peer"), runs(200, "to-peer", True)]
    cells += [load(k, 2) for k in LOAD_KPPS_QUICK] + [latency(3)]
    return (cells + [churn(32)] + memory(25000, 3) + port(1024, 2, 1) + [xdp(2)]
            + memory_port(3, 0.1, ("channel", "send", "flows-1m")))


def dig(result, path):
    """result["a"]["b"] for "a.b"; None where there is nothing."""
    for key in path.split("."):
        result = result.get(key) if isinstance(result, dict) else None
    return result


def worst_direction(result, percentile):
    """The larger of both directions' latency; None without one."""
    values = [flow["latency_us"][percentile] for flow in result["flows"].values()
              if flow["latency_us"]]
    return max(values) if values else None


def select(result, figure):
    """The figure(s) of one run's JSON: a list of (suffix, value)."""
    if figure == "latency.both":
        return [(p, worst_direction(result, p)) for p in ("p50", "p99", "p99.9")]
    if figure.startswith("rss.growth"):
        server = result["server"]
        key = "rss_after" if figure.endswith("after") else "rss_ready"
        return [("", (server[key] - server["rss_before"]) / 1e6)]
    if figure == "flood":
        sent = sum(flow["sent"] for flow in result["flows"].values())
        unique = sum(flow["unique"] for flow in result["flows"].values())
        return [("delivered, %", 100 * unique / sent if sent else None),
                ("bytes out for a byte of the flood", dig(result, "flood.amplification")),
                ("allocations left afterwards", dig(result, "extras.allocations_left"))]
    if figure == "handoff":
        packets = dig(result, "extras.packets")
        sent = sum(flow["sent"] for flow in result["flows"].values())
        unique = sum(flow["unique"] for flow in result["flows"].values())
        return [("packets/s", result["received_per_s"]),
                ("delivered, %", 100 * unique / sent if sent else None),
                ("handed over while traffic ran, % of datagrams",
                 dig(result, "extras.handed_over_in_traffic")),
                ("handed over, set-up and tear-down included, %",
                 100 * dig(result, "extras.handoff") / packets if packets else None),
                ("lost to a full hand-off ring", dig(result, "extras.handoff_full"))]
    return [("", dig(result, figure))]
