"""What a cell of the comparison has to reach, and whether it did. Pure; standard library only.

A cell is met when this engine is so many times as fast as the better of the other engines, or when
it reaches SHARE of what the machine allows. A cell that was not measured is missed.
"""

import statistics

SHARE = 0.85
DECODE_ONE = {"q4_0": 1.25, "q8_0": 1.15, "q4_k_m": 1.2}
LESS_IS_BETTER = ("load", "peak memory")
MEMORY_WORK = ["prefill 512", "decode 1 16"]  # what a process has done when its peak is read
MEMORY_POSITIONS = 512 + 64                   # pages of the longer of the two hold KV at a time


def bar(shape, mixture, cell, isa=None):
    """The ratio to reach, or None where there is no bar.

    >>> bar("qwen3-0.6b", "q8_0", "decode 1"), bar("llama-3.2-1b", "q4_0", "decode 16")
    (1.15, 2.0)
    >>> bar("moe-8x", "q4_0", "decode 4"), bar("moe-8x", "q4_0", "prefill 512")
    (1.2, 1.5)
    >>> bar("qwen3-0.6b", "q4_0", "prefill 2048"), bar("qwen3-0.6b", "q4_0", "decode 1", "avx2")
    (1.4, 1.0)
    >>> bar("qwen3-0.6b", "q4_0_pure", "decode 1")
    """
    if cell == "load":
        return 1.0
    if cell == "peak memory":
        return None  # held against the file's size: memory_bound()
    if isa == "avx2":
        return 1.0
    kind, count = cell.split()
    if shape.startswith("moe"):
        return 1.2 if kind == "decode" else 1.5
    if kind == "prefill":
        return 1.8 if int(count) <= 512 else 1.4
    return 2.0 if int(count) > 1 else DECODE_ONE.get(mixture)


def summary(row):
    """Medians, the better peer, the ratios of the pairs against it and the verdict of a row.

    >>> row = {"cell": "decode 1", "bar": 1.25, "ceiling": 100.0, "values":
    ...        {"ours": [60.0, 66.0, 63.0], "a": [40.0, 44.0, 45.0], "b": [50.0, 50.0, 52.0]}}
    >>> told = summary(row)
    >>> told["best"], round(told["ratio"], 2), told["shares"]["ours"], told["met"]
    ('b', 1.21, 0.63, False)
    >>> row["ceiling"] = 70.0
    >>> summary(row)["met"]
    True
    >>> row["values"]["b"] = []
    >>> summary(row)["best"], summary(row)["complete"]
    ('a', False)
    >>> load = {"cell": "load", "bar": 1.0, "values": {"ours": [0.5, 0.4], "a": [0.6, 0.6]}}
    >>> round(summary(load)["ratio"], 2), summary(load)["met"]
    (1.35, True)
    """
    values = row["values"]
    less = row["cell"] in LESS_IS_BETTER
    medians = {side: statistics.median(found) for side, found in values.items() if found}
    peers = {side: median for side, median in medians.items() if side != "ours"}
    told = {"medians": medians, "best": None, "ratio": None, "ratios": [], "shares": {},
            "complete": len(medians) == len(values), "met": None}
    if peers:
        told["best"] = (min if less else max)(peers, key=peers.get)
        told["ratios"] = [b / a if less else a / b
                          for a, b in zip(values["ours"], values[told["best"]])]
    if told["ratios"]:
        told["ratio"] = statistics.median(told["ratios"])
    if row.get("ceiling"):
        told["shares"] = {side: median / row["ceiling"] for side, median in medians.items()}
    if row.get("bound") and "ours" in medians:
        told["met"] = medians["ours"] <= row["bound"]
    elif row.get("bar"):
        fast = told["ratio"] is not None and told["complete"] and told["ratio"] >= row["bar"]
        told["met"] = fast or told["shares"].get("ours", 0) >= SHARE
    return told


def memory_bound(file_bytes, shape):
    """Bytes that a process serving a file alone may hold: the file, KV in bf16 and 150 MB.

    >>> memory_bound(1e6, {"layers": 2, "kv_heads": 2, "head": 64})
    151589824.0
    """
    pair = 2 * 2  # K and V in bf16
    kv = MEMORY_POSITIONS * pair * shape["layers"] * shape["kv_heads"] * shape["head"]
    return file_bytes + kv + 150e6
