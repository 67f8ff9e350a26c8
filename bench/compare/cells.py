"""The cells of the comparison: what is offered to each server and which figure counts.

A cell is one culvert-load command and one figure of its JSON. Cells are grouped as the report's
tables are. `higher` says which way is better. `bound` names the bare loop's mode for cells
where one exists.
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
    allocations: int = 32
    duration: float = 0  # 0: the plan's
    warm_up: float = -1
    labels: dict = field(default_factory=dict)


GROUPS = {
    "throughput": "Packets per CPU-second, flows interleaved",
    "runs": "Packets per CPU-second, runs of 8 of one flow, sent singly",
    "gso": "Packets per CPU-second, runs of 8 of one flow, sent by GSO to peers that take GRO",
    "latency": "Latency at 20,000 packets a second",
    "load": "Offered load: what arrives, and how late",
    "churn": "Complete authenticated allocations per CPU-second",
    "memory": "Memory",
}

PER_CPU = "server.per_cpu_second"
LOAD_KPPS = (10, 20, 40, 80, 120, 160)


def throughput(allocations, size, direction):
    return Cell(
        "throughput", f"{allocations} allocations, {size} B, {direction}",
        ["relay", "--unpaced", "--clients", str(allocations), "--size", str(size),
         "--direction", direction],
        PER_CPU, "packets/CPU-s", bound="single", allocations=allocations,
    )


def runs(size, direction, gso):
    args = ["relay", "--unpaced", "--clients", "32", "--size", str(size), "--direction", direction,
            "--run-length", "8"]
    return Cell("gso" if gso else "runs", f"32 allocations, {size} B, {direction}",
                args + (["--gso"] if gso else []), PER_CPU, "packets/CPU-s", bound="gso")


def latency(rounds):
    return Cell("latency", "100 allocations, 200 B, both directions",
                ["relay", "--rate", "20000", "--clients", "100", "--size", "200",
                 "--direction", "both"],
                "latency.both", "us", higher=False, rounds=rounds,
                allocations=100)


def load(kpps):
    return Cell("load", f"{kpps} kpps, 100 allocations, 200 B, both",
                ["relay", "--rate", str(kpps * 1000), "--clients", "100", "--size", "200",
                 "--direction", "both"],
                "received_per_s", "packets/s", allocations=100,
                labels={"offered": kpps * 1000})


def churn(clients):
    return Cell("churn", f"{clients} in progress at once", ["churn", "--clients", str(clients)],
                PER_CPU, "allocations/CPU-s", bound="")


def memory():
    return [
        Cell("memory", "growth by 50,000 unauthenticated Allocates",
             ["hostile", "--attack", "allocate", "--count", "50000", "--rate", "12500"],
             "rss.growth_after", "MB", higher=False, rounds=2, fresh=True, duration=6,
             warm_up=0),
        Cell("memory", "growth by 1000 idle allocations, 1 channel each",
             ["idle", "--clients", "1000"],
             "rss.growth_ready", "MB", higher=False, rounds=2, fresh=True, duration=1,
             warm_up=0, allocations=1000),
    ]


def full_plan():
    cells = [throughput(a, s, d) for a in (32, 1000) for s in (120, 200, 1200)
             for d in ("to-peer", "to-client")]
    cells += [runs(s, d, gso) for gso in (False, True) for s in (200, 1200)
              for d in ("to-peer", "to-client")]
    cells += [latency(11)]
    cells += [load(k) for k in LOAD_KPPS]
    cells += [churn(32)] + memory()
    return cells


def quick_plan():
    cells = [throughput(32, 200, "to-peer"), throughput(32, 200, "to-client"),
             throughput(1000, 120, "to-peer"), throughput(1000, 1200, "to-client"),
             runs(200, "to-peer", False), runs(200, "to-peer", True)]
    return cells + [latency(4), churn(32)] + memory()


def select(result, figure):
    """The figure(s) of one run's JSON: a list of (suffix, value)."""
    def dig(path):
        value = result
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    if figure == "latency.both":
        out = []
        for percentile in ("p50", "p99"):
            worst = [flow["latency_us"][percentile] for flow in result["flows"].values()
                     if flow["latency_us"]]
            out.append((percentile, max(worst) if worst else None))
        return out
    if figure.startswith("rss.growth"):
        server = result["server"]
        key = "rss_after" if figure.endswith("after") else "rss_ready"
        return [("", (server[key] - server["rss_before"]) / 1e6)]
    return [("", dig(figure))]
