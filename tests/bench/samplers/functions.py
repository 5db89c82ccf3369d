"""The functions on which samplers are compared. Every objective is minimised.

Branin, Hartmann-6: Dixon, Szego 1978. Rosenbrock: Rosenbrock 1960. ZDT1, ZDT2: Zitzler, Deb, Thiele 2000. DTLZ2: Deb,
Thiele, Laumanns, Zitzler 2002. `mixed_single` and `tuner` are this project's own, the same as in the kernel's test bed
(`src/kernel/tune/testbed.rs`): names, ordinals, integers and floats with a rule and a region that fails; and the 18
parameters of a serving engine's command line with the seven rules that the tuner of the SGLang fork keliangli/sglang
checks, and a formula in the place of the engine.

`FUNCTIONS` maps a name to (parameters, objectives, function). A parameter is ("float", low, high, log),
("float", low, high, log, step), ("int", low, high, log), ("int", low, high, log, step) or ("list", values). A function
takes a dict and returns a list of objectives, or None where it fails. `RULES` tells how many rules a dict breaks.
"""

import math
import random


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


def mixed_single(v):
    """Least value 0.25: policy lpm, tp 8, batch 2048, memory 0.9, rate 1, share 0."""
    if v["policy"] == "random" and v["share"] > 0.9:
        return None
    miss = 0.0 if v["policy"] == "lpm" else 0.4
    miss += (math.log(v["batch"] / 2048) / 2) ** 2 + ((v["memory"] - 0.9) / 0.4) ** 2 + (math.log(v["rate"]) / 3) ** 2
    return [miss + 2 / v["tp"] + v["share"]]


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


def tuner_rules(v):
    """How many of the seven rules a configuration breaks on eight devices."""
    tp, dp, pp = v["tp_size"], v["dp_size"], v["pp_size"]
    chunk, graph = v["chunked_prefill_size"], v["cuda_graph_max_bs"]
    return sum(
        (
            tp * dp * pp > 8,
            pp > 4 and dp > 4,
            chunk is not None and chunk > v["max_prefill_tokens"],
            chunk is not None and dp > 1 and chunk // dp < 256,
            v["disable_overlap_schedule"] and v["enable_two_batch_overlap"],
            graph is not None and chunk is not None and chunk <= 2048 and graph > 32,
            graph is not None and dp >= 4 and graph > 64,
        )
    )


def repaired(v):
    """A configuration of the tuner that obeys its rules, and differs where it had to."""
    v = dict(v)
    while v["tp_size"] * v["dp_size"] * v["pp_size"] > 8:
        # The largest of them gives way; of equals the pipeline first.
        v[max(("pp_size", "dp_size", "tp_size"), key=v.get)] //= 2
    chunks = TUNER["chunked_prefill_size"][1][1:]
    if v["chunked_prefill_size"] is not None:
        fits = [c for c in chunks if c <= v["max_prefill_tokens"] and (v["dp_size"] == 1 or c // v["dp_size"] >= 256)]
        v["chunked_prefill_size"] = min(fits, key=lambda c: abs(c - v["chunked_prefill_size"]))
    if v["disable_overlap_schedule"] and v["enable_two_batch_overlap"]:
        v["enable_two_batch_overlap"] = False
    if v["cuda_graph_max_bs"] is not None:
        if v["chunked_prefill_size"] is not None and v["chunked_prefill_size"] <= 2048:
            v["cuda_graph_max_bs"] = min(v["cuda_graph_max_bs"], 32)
        if v["dp_size"] >= 4:
            v["cuda_graph_max_bs"] = min(v["cuda_graph_max_bs"], 64)
    return v


PREFILL_SPEED = {"flashinfer": 1.0, "triton": 0.8, "torch_native": 0.4, "fa3": 1.1, "fa4": 1.3}
DECODE_SPEED = {"flashinfer": 1.1, "triton": 0.9, "torch_native": 0.3, "fa3": 1.0, "fa4": 0.95}
POLICY = {
    "fcfs": (1.0, 1.0),
    "lpm": (0.85, 1.05),
    "random": (1.15, 0.98),
    "dfs-weight": (0.9, 1.04),
    "lof": (1.05, 0.96),
}


def tuner(v):
    """Time to first token, s, and less the throughput, thousands of tokens per second."""
    tp, dp, pp = v["tp_size"], v["dp_size"], v["pp_size"]
    prefill = v["prefill_attention_backend"] or v["attention_backend"] or "flashinfer"
    decode = v["decode_attention_backend"] or v["attention_backend"] or "flashinfer"
    chunk = v["chunked_prefill_size"] or v["max_prefill_tokens"]
    graph = v["cuda_graph_max_bs"] or 40
    steps, workers = v["num_continuous_decode_steps"], v["tokenizer_worker_num"]
    wait, gain = POLICY[v["schedule_policy"]]
    # Prompts of 1,000 tokens, 24 of them a second, spread over the replicas.
    rate = 11000 * tp**0.8 * pp**0.7 * PREFILL_SPEED[prefill] * chunk / (chunk + 600)
    rate *= 1.05 if v["enable_torch_compile"] else 1.0
    busy = min(0.95, 24000 / dp / rate)
    slots = 190 * tp**0.65 * pp**0.3 * (1 - v["max_prefill_tokens"] / 250000) * (1 - graph / 900)

    def step(batch):
        """One step of decoding, ms."""
        time = 5.5 / tp**0.7 + 0.7 * (pp - 1) + 0.04 * batch
        time *= 1 + 0.01 * (math.log2(v["page_size"] or 1) - 5) ** 2
        if v["enable_two_batch_overlap"]:
            time *= 0.92 if batch > 50 else 1.06
        time /= DECODE_SPEED[decode]
        time += 3 / tp**0.3 if batch > graph else 0.0
        time += (1.7 if v["disable_overlap_schedule"] else 0.5) / steps
        return time + (0.4 if v["sampling_backend"] == "pytorch" else 0.14)

    first = 1000 / rate * wait * (0.9 if v["enable_mixed_chunk"] else 1.0) / (1 - busy) + 0.3 * chunk / rate
    first += 0.004 / (1 - min(0.95, 1.8 / workers**0.8))
    first += 0.0006 * steps * step(min(slots, 30 / dp)) + 0.003 * (pp - 1)
    tokens = dp * slots / step(slots) * (1 - 0.5 * busy) * gain * (0.97 if v["enable_mixed_chunk"] else 1.0)
    return [first, -tokens * (1 - 0.004 * workers)]


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
    "mixed_single": (
        {
            "policy": ("list", ("fcfs", "lpm", None, "lof", "random")),
            "tp": SIZES,
            "batch": ("int", 256, 16384, True),
            "seqs": ("int", 8, 512, False, 8),
            "memory": ("float", 0.5, 0.95, False, 0.05),
            "rate": ("float", 0.01, 100.0, True),
            "share": ("float", 0.0, 1.0, False),
        },
        1,
        mixed_single,
    ),
    "zdt1": (cube(30), 2, zdt1),
    "zdt2": (cube(30), 2, zdt2),
    "dtlz2": (cube(12), 3, dtlz2),
    "tuner": (TUNER, 2, tuner),
}

RULES = {"mixed_single": lambda v: int(v["tp"] * v["seqs"] > 1024), "tuner": tuner_rules}

# Up to where hypervolume is counted, and the most that there can be of it. That of the tuner is of all legal
# configurations in which whatever has a best value has it: page 32, backends fa4 and flashinfer, policy lpm, and so on.
REFERENCES = {
    "zdt1": ((1.1, 5.0), 5.5 - 1 / 3),
    "zdt2": ((1.1, 5.0), 5.5 - 2 / 3),
    "dtlz2": ((1.5, 1.5, 1.5), 1.5**3 - math.pi / 6),
    "tuner": ((1.0, 0.0), 88.86775227711715),
}

# One point of each, with its values: what another program has to give as well.
CHECKS = {
    "branin": ({"x0": math.pi, "x1": 2.275}, [0.39788735772973816]),
    "hartmann6": ({f"x{j}": 0.5 for j in range(6)}, [-0.5053149917022333]),
    "rosenbrock5": ({f"x{j}": 2.0 for j in range(5)}, [1604.0]),
    "mixed_single": (
        {"policy": "lof", "tp": 2, "batch": 300, "seqs": 64, "memory": 0.7, "rate": 0.5, "share": 0.25},
        [2.8757868941940767],
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
        [0.1883833794895006, -26.733969810595074],
    ),
}


def check():
    for name, (point, values) in CHECKS.items():
        got = FUNCTIONS[name][2](point)
        assert len(got) == len(values), (name, got)
        assert all(abs(a - b) <= 1e-12 * max(1, abs(b)) for a, b in zip(got, values)), (name, got)
    draw = random.Random(0)
    for _ in range(1000):
        point = {key: draw.choice(domain[1]) for key, domain in TUNER.items()}
        legal = repaired(point)
        assert tuner_rules(legal) == 0 and (tuner_rules(point) or legal == point), point


if __name__ == "__main__":
    check()
    for name, (point, values) in CHECKS.items():
        print(name, values)
