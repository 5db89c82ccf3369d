"""The functions on which samplers are compared. Every objective is minimised.

Branin, Hartmann-6: Dixon, Szego 1978. Rosenbrock: Rosenbrock 1960. ZDT1, ZDT2: Zitzler, Deb, Thiele 2000. DTLZ2: Deb,
Thiele, Laumanns, Zitzler 2002. `mixed` and `tuner` are defined here: `mixed` has names, integers and floats that
interact; `tuner` has the 18 parameters of a serving engine's command line and the seven rules that the tuner of the
SGLang fork keliangli/sglang checks, with a formula in the place of the engine.

`FUNCTIONS` maps a name to (parameters, objectives, function). A parameter is ("float", low, high, log),
("int", low, high, log) or ("list", values). A function takes a dict and returns a list of objectives, or None where a
rule is broken.
"""

import math


def branin(v):
    x, y = v["x0"], v["x1"]
    curve = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return [curve * curve + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10]


HARTMANN_ALPHA = (1.0, 1.2, 3.0, 3.2)
HARTMANN_A = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
HARTMANN_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann6(v):
    x = [v[f"x{j}"] for j in range(6)]
    wells = zip(HARTMANN_ALPHA, HARTMANN_A, HARTMANN_P)
    return [-sum(c * math.exp(-sum(a * (t - p) ** 2 for a, t, p in zip(row, x, at))) for c, row, at in wells)]


def rosenbrock5(v):
    x = [v[f"x{j}"] for j in range(5)]
    return [sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in zip(x, x[1:]))]


def mixed(v):
    """Least value 0, at policy "b", cache "warm", async true, batch 16, depth 6, share 0.35, rate 0.01."""
    policy = {"a": (0.3, 8.0), "b": (0.0, 16.0), "c": (0.15, 4.0), "d": (0.7, 32.0), "e": (1.0, 2.0)}
    cost, batch = policy[v["policy"]]
    depth, damp = {"cold": (2, 0.3), "warm": (6, 0.0), "off": (11, 0.6)}[v["cache"]]
    miss = cost + damp + (0.0 if v["async"] else 0.1 + damp / 4)
    miss += 0.5 * math.log(v["batch"] / batch) ** 2
    miss += ((v["depth"] - depth) / 8) ** 2
    miss += 2 * (v["share"] - (0.35 if v["async"] else 0.2)) ** 2
    miss += (math.log10(v["rate"]) + 2) ** 2 / 4
    return [miss + 0.2 * (1 - damp) * math.sin(5 * math.pi * (v["share"] - 0.35)) ** 2]


def zdt(v, shape):
    rest = [v[f"x{j}"] for j in range(1, 30)]
    g = 1 + 9 * sum(rest) / 29
    return [v["x0"], g * (1 - shape(v["x0"] / g))]


def zdt1(v):
    return zdt(v, math.sqrt)


def zdt2(v):
    return zdt(v, lambda t: t * t)


def dtlz2(v):
    g = sum((v[f"x{j}"] - 0.5) ** 2 for j in range(2, 12))
    a, b = v["x0"] * math.pi / 2, v["x1"] * math.pi / 2
    return [
        (1 + g) * math.cos(a) * math.cos(b),
        (1 + g) * math.cos(a) * math.sin(b),
        (1 + g) * math.sin(a),
    ]


DEVICES = 8


def broken_rules(v):
    """How many of the seven rules a configuration breaks."""
    tp, dp, pp = v["tp_size"], v["dp_size"], v["pp_size"]
    chunk, graph = v["chunked_prefill_size"], v["cuda_graph_max_bs"]
    return sum(
        (
            tp * dp * pp > DEVICES,
            pp > 4 and dp > 4,
            chunk is not None and chunk > v["max_prefill_tokens"],
            chunk is not None and dp > 1 and chunk // dp < 256,
            v["disable_overlap_schedule"] and v["enable_two_batch_overlap"],
            graph is not None and chunk is not None and chunk <= 2048 and graph > 32,
            graph is not None and dp >= 4 and graph > 64,
        )
    )


PREFILL_SPEED = {"flashinfer": 1.0, "triton": 0.8, "torch_native": 0.4, "fa3": 1.15, "fa4": 1.25}
DECODE_SPEED = {"flashinfer": 1.0, "triton": 0.85, "torch_native": 0.35, "fa3": 1.1, "fa4": 0.95}
POLICY = {"fcfs": (1.0, 1.0), "lpm": (0.85, 1.05), "random": (1.1, 0.98), "dfs-weight": (0.9, 1.06), "lof": (1.05, 0.96)}
SAMPLING = {None: 0.15, "flashinfer": 0.1, "pytorch": 0.4}


def tuner(v):
    """Time to first token, s, and less the throughput, thousands of tokens per second; None where a rule is broken."""
    if broken_rules(v):
        return None
    tp, dp, pp = v["tp_size"], v["dp_size"], v["pp_size"]
    prefill = v["prefill_attention_backend"] or v["attention_backend"] or "flashinfer"
    decode = v["decode_attention_backend"] or v["attention_backend"] or "flashinfer"
    page = v["page_size"] or 1
    chunk = v["chunked_prefill_size"] or v["max_prefill_tokens"]
    graph = v["cuda_graph_max_bs"] or 40
    steps, workers = v["num_continuous_decode_steps"], v["tokenizer_worker_num"]
    compiled, mix, two = v["enable_torch_compile"], v["enable_mixed_chunk"], v["enable_two_batch_overlap"]
    # Prompt tokens per second of a replica, and the share of its time that they take.
    rate = 10000 * tp**0.8 * pp**0.7 * PREFILL_SPEED[prefill] * chunk / (chunk + 800)
    rate *= (1.05 if compiled else 1.0) * (1.0 if prefill == decode else 0.97)
    load = 20 / dp
    busy = min(0.95, load * 1000 / rate)
    slots = 160 * tp**0.6 * pp**0.3 * (1 - v["max_prefill_tokens"] / 262144) * (1 - graph / 800)

    def step(batch):
        """One step of decoding, ms."""
        time = 6 / tp**0.7 + 0.9 * (pp - 1) + 0.05 * batch
        time /= DECODE_SPEED[decode] * (1 + 0.01 * math.log2(page) - page / 4096)
        time += 3 / math.sqrt(tp) if batch > graph else 0.0
        time *= (0.95 if compiled else 1.0) * (1.04 if mix else 1.0)
        time *= (0.93 if batch > 48 else 1.05) if two else 1.0
        return time + (1.6 if v["disable_overlap_schedule"] else 0.4) / steps + SAMPLING[v["sampling_backend"]]

    running = max(1.0, min(slots, load * 0.2 * step(32)))
    wait, gain = POLICY[v["schedule_policy"]]
    first = 1000 / rate * wait / (1 - busy) * (0.9 if mix else 1.0) + 0.3 * chunk / rate + 0.004 * (pp - 1)
    first += steps * step(running) / 2000 + 0.003 / (1 - min(0.95, 1.5 / workers**0.8))
    tokens = dp * slots / step(slots) * (1 - busy / 2) * gain * (1 - 0.003 * workers)
    return [first, -tokens]


def cube(n, low=0.0, high=1.0):
    return {f"x{j}": ("float", low, high, False) for j in range(n)}


SIZES = ("list", (1, 2, 4, 8))
SWITCH = ("list", (False, True))
BACKENDS = ("list", (None, "flashinfer", "triton", "torch_native", "fa3"))
TUNER = {
    "tp_size": SIZES,
    "attention_backend": ("list", (None, "flashinfer", "triton", "torch_native", "fa3", "fa4")),
    "chunked_prefill_size": ("list", (None, 512, 1024, 2048, 4096, 8192, 16384)),
    "max_prefill_tokens": ("list", (4096, 8192, 16384, 32768, 65536)),
    "dp_size": SIZES,
    "schedule_policy": ("list", ("fcfs", "lpm", "random", "dfs-weight", "lof")),
    "pp_size": SIZES,
    "decode_attention_backend": BACKENDS,
    "prefill_attention_backend": BACKENDS,
    "page_size": ("list", (None, 16, 32, 64, 128, 256)),
    "cuda_graph_max_bs": ("list", (None, 8, 16, 24, 32, 48, 64, 80, 96)),
    "enable_mixed_chunk": SWITCH,
    "disable_overlap_schedule": SWITCH,
    "enable_torch_compile": SWITCH,
    "num_continuous_decode_steps": ("list", (1, 2, 4, 8, 16)),
    "enable_two_batch_overlap": SWITCH,
    "tokenizer_worker_num": ("list", (1, 2, 4, 8, 16)),
    "sampling_backend": ("list", (None, "flashinfer", "pytorch")),
}

FUNCTIONS = {
    "branin": ({"x0": ("float", -5.0, 10.0, False), "x1": ("float", 0.0, 15.0, False)}, 1, branin),
    "hartmann6": (cube(6), 1, hartmann6),
    "rosenbrock5": (cube(5, -5.0, 10.0), 1, rosenbrock5),
    "mixed": (
        {
            "policy": ("list", ("a", "b", "c", "d", "e")),
            "cache": ("list", ("cold", "warm", "off")),
            "async": SWITCH,
            "batch": ("int", 1, 64, True),
            "depth": ("int", 1, 16, False),
            "share": ("float", 0.0, 1.0, False),
            "rate": ("float", 1e-4, 1.0, True),
        },
        1,
        mixed,
    ),
    "zdt1": (cube(30), 2, zdt1),
    "zdt2": (cube(30), 2, zdt2),
    "dtlz2": (cube(12), 3, dtlz2),
    "tuner": (TUNER, 2, tuner),
}

# Up to where hypervolume is counted, and the most that there can be of it. That of the tuner is the most that is known:
# of all 1,719,600 legal configurations that leave everything at its best that has one best value.
REFERENCES = {
    "zdt1": ((1.1, 5.0), 5.5 - 1 / 3),
    "zdt2": ((1.1, 5.0), 5.5 - 2 / 3),
    "dtlz2": ((1.5, 1.5, 1.5), 1.5**3 - math.pi / 6),
    "tuner": ((1.0, 0.0), 77.06366720795045),
}

# One point of each, with its values: what another program has to give as well.
CHECKS = {
    "branin": ({"x0": math.pi, "x1": 2.275}, [0.39788735772973816]),
    "hartmann6": ({f"x{j}": 0.5 for j in range(6)}, [-0.5053149917022333]),
    "rosenbrock5": ({f"x{j}": 2.0 for j in range(5)}, [1604.0]),
    "mixed": (
        {"policy": "c", "cache": "off", "async": False, "batch": 10, "depth": 5, "share": 0.9, "rate": 0.5},
        [3.7239191215676204],
    ),
    "zdt1": ({f"x{j}": 0.25 for j in range(30)}, [0.25, 2.3486121811340026]),
    "zdt2": ({f"x{j}": 0.25 for j in range(30)}, [0.25, 3.230769230769231]),
    "dtlz2": ({f"x{j}": 0.25 for j in range(12)}, [1.3870242597140698, 0.5745242597140698, 0.6218605775932708]),
    "tuner": (
        {
            "tp_size": 2,
            "attention_backend": "fa3",
            "chunked_prefill_size": None,
            "max_prefill_tokens": 8192,
            "dp_size": 2,
            "schedule_policy": "lpm",
            "pp_size": 2,
            "decode_attention_backend": None,
            "prefill_attention_backend": "triton",
            "page_size": 64,
            "cuda_graph_max_bs": 48,
            "enable_mixed_chunk": True,
            "disable_overlap_schedule": False,
            "enable_torch_compile": True,
            "num_continuous_decode_steps": 4,
            "enable_two_batch_overlap": True,
            "tokenizer_worker_num": 4,
            "sampling_backend": "flashinfer",
        },
        [0.20630613632959524, -25.740845280094433],
    ),
}


def check():
    for name, (point, values) in CHECKS.items():
        got = FUNCTIONS[name][2](point)
        assert len(got) == len(values), (name, got)
        assert all(abs(a - b) <= 1e-12 * max(1, abs(b)) for a, b in zip(got, values)), (name, got)


if __name__ == "__main__":
    check()
    for name, (point, values) in CHECKS.items():
        print(name, values)
