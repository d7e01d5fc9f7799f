"""GGUF containers: a writer for synthetic models and a reader of the tensor table.

Layout after the format's specification: magic, version 3, counts, key-value pairs, tensor table,
then the data, aligned to 32 bytes. Standard library only.
"""

import struct

ALIGNMENT = 32
# name: (type id, values of a block, bytes of a block)
TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18), "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2), "MXFP4": (39, 32, 17),
}
NAMES = {number: name for name, (number, _, _) in TYPES.items()}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}
STRING, ARRAY = 8, 9
KINDS = {"u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": STRING, "u64": 10}


def elements(dims):
    count = 1
    for size in dims:
        count *= size
    return count


def tensor_bytes(kind, dims):
    _, values, size = TYPES[kind]
    if dims[0] % values:
        raise ValueError(f"rows of {dims[0]} are not whole blocks of {kind}")
    return elements(dims) // values * size


def _string(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


class Writer:
    """Collects keys and tensors, then writes the file; data is made tensor by tensor."""

    def __init__(self):
        self.keys = []
        self.tensors = []  # name, dims (row length first), kind

    def key(self, name, kind, value):
        number = KINDS[kind]
        head = _string(name)
        if isinstance(value, (list, tuple)):
            if number == STRING:
                body = b"".join(map(_string, value))
            else:
                body = struct.pack(f"<{len(value)}{SCALARS[number]}", *value)
            self.keys.append(head + struct.pack("<IIQ", ARRAY, number, len(value)) + body)
        else:
            body = _string(value) if number == STRING else struct.pack("<" + SCALARS[number], value)
            self.keys.append(head + struct.pack("<I", number) + body)

    def tensor(self, name, dims, kind):
        self.tensors.append((name, tuple(dims), kind))

    def write(self, path, make_data):
        """make_data(name, dims, kind) gives an iterable of byte chunks."""
        with open(path, "wb") as out:
            out.write(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.keys)))
            out.writelines(self.keys)
            offset = 0
            for name, dims, kind in self.tensors:
                out.write(_string(name) + struct.pack("<I", len(dims)))
                out.write(struct.pack(f"<{len(dims)}Q", *dims))
                out.write(struct.pack("<IQ", TYPES[kind][0], offset))
                offset += -(-tensor_bytes(kind, dims) // ALIGNMENT) * ALIGNMENT
            for name, dims, kind in self.tensors:
                out.write(b"\0" * (-out.tell() % ALIGNMENT))
                begin = out.tell()
                for chunk in make_data(name, dims, kind):
                    out.write(chunk)
                if out.tell() - begin != tensor_bytes(kind, dims):
                    raise ValueError(f"{name}: {out.tell() - begin} bytes were made")
            out.write(b"\0" * (-out.tell() % ALIGNMENT))


class Table:
    """What a file says of itself: `keys` (arrays only by length) and `tensors` by name."""

    def __init__(self, path):
        with open(path, "rb") as self._in:
            magic, version, tensors, keys = struct.unpack("<4sIQQ", self._in.read(24))
            if magic != b"GGUF" or version not in (2, 3):
                raise ValueError(f"{path}: not a GGUF file of version 2 or 3")
            self.keys = {}
            for _ in range(keys):
                name = self._text()
                self.keys[name] = self._value(self._number("I"))
            self.tensors = {}
            for _ in range(tensors):
                name = self._text()
                dims = tuple(self._number("Q") for _ in range(self._number("I")))
                kind = NAMES[self._number("I")]
                self._number("Q")
                self.tensors[name] = (kind, dims)
        del self._in

    def _number(self, code):
        return struct.unpack("<" + code, self._in.read(struct.calcsize("<" + code)))[0]

    def _text(self):
        return self._in.read(self._number("Q")).decode("utf-8", "replace")

    def _value(self, kind):
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            return self._number(SCALARS[kind])
        of, count = self._number("I"), self._number("Q")
        if of == STRING:
            for _ in range(count):
                self._in.seek(self._number("Q"), 1)
        else:
            self._in.seek(count * struct.calcsize("<" + SCALARS[of]), 1)
        return f"{count} values"

    def _parts(self):
        """(name, bytes, values, share of it that one token uses) of every matrix."""
        arch = self.keys["general.architecture"]
        experts = self.keys.get(f"{arch}.expert_count", 0)
        used = self.keys.get(f"{arch}.expert_used_count", 0)
        tied = "output.weight" not in self.tensors
        for name, (kind, dims) in self.tensors.items():
            if name == "token_embd.weight" and not tied:
                continue
            share = used / experts if "_exps." in name and experts else 1.0
            yield name, tensor_bytes(kind, dims), elements(dims), share

    def kv_shape(self):
        """layers, kv_heads and head (dimensions of one) of the KV cache."""
        arch = self.keys["general.architecture"]
        heads = self.keys[f"{arch}.attention.head_count"]
        return {"layers": self.keys[f"{arch}.block_count"],
                "kv_heads": self.keys.get(f"{arch}.attention.head_count_kv", heads),
                "head": self.keys.get(f"{arch}.attention.key_length",
                                      self.keys[f"{arch}.embedding_length"] // heads)}

    def step_bytes(self, sequences):
        """Bytes of weights read by one step of so many sequences; experts as drawn at random."""
        return sum(size * (1 - (1 - share) ** sequences) for _, size, _, share in self._parts())

    def token_operations(self, head=True):
        """Operations per token in matrix products, 2 per multiply-accumulate."""
        skipped = () if head else ("output.weight", "token_embd.weight")
        return sum(2 * values * share for name, _, values, share in self._parts()
                   if name not in skipped)
