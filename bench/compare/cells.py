"""The cells of the comparison: what is offered to each server and which figure counts.

A cell is one culvert-load command and one figure of its JSON. Cells are grouped as the report's
sections are. `higher` says which way is better; `bound` names the bare loop's mode for cells where
one exists. The cells of a curve differ in one number, `x`, and share their server processes, so
that a curve's points see the same server in the same state.
"""
from dataclasses import dataclass


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
LOAD_KPPS_QUICK = (10, 40, 80, 140)
CLIENTS = (10, 32, 100, 320, 1000, 3200)
CLIENTS_QUICK = (32, 320, 1600)
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


def full_plan():
    cells = [throughput(a, s, d) for a in (32, 1000) for s in (120, 200, 1200)
             for d in ("to-peer", "to-client")]
    cells += [runs(s, d, gso) for gso in (False, True) for s in (200, 1200)
              for d in ("to-peer", "to-client")]
    cells += [load(k, 5) for k in LOAD_KPPS]
    cells += [latency(11)]
    cells += [clients(c, 5) for c in CLIENTS] + [flows(c, 5) for c in CHANNELS]
    return cells + [churn(32)] + memory(50000, 6)


def quick_plan():
    cells = [throughput(32, 200, "to-peer"), throughput(32, 200, "to-client"),
             throughput(1000, 120, "to-peer"), throughput(1000, 1200, "to-client"),
             runs(200, "to-peer", False), runs(200, "to-peer", True)]
    cells += [load(k, 2) for k in LOAD_KPPS_QUICK] + [latency(4)]
    cells += [clients(c, 2) for c in CLIENTS_QUICK]
    return cells + [churn(32)] + memory(25000, 3)


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
    return [("", dig(result, figure))]
