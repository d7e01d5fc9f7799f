#!/usr/bin/env python3
"""Writes a GGUF file of a published model's shape with random weights and a whole vocabulary.

The blocks are random bits under scales that give the weights a deviation of about 0.02: kernels
take the same time as over a trained model, activations stay finite and greedy tokens vary.
The same shape, mixture and seed give the same bytes. Standard library only.
"""

import argparse
import math
import os
import random
import struct
import sys

from gguf_file import Writer, elements, tensor_bytes

DEVIATION = 0.02
CHUNK_BLOCKS = 1 << 16
CHATML = ("{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + "
          "message.content + '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}"
          "{{- '<|im_start|>assistant\\n' }}{%- endif %}")
LLAMA3 = ("{{- bos_token }}{%- for message in messages %}{{- '<|start_header_id|>' + message.role "
          "+ '<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}{%- endfor %}"
          "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>"
          "\\n\\n' }}{%- endif %}")
QWEN = {"pre": "qwen2", "template": CHATML, "end": "<|im_end|>", "pad": "<|endoftext|>",
        "specials": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]}
LLAMA = {"pre": "llama-bpe", "template": LLAMA3, "end": "<|eot_id|>", "begin": "<|begin_of_text|>",
         "specials": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                      "<|end_header_id|>", "<|eot_id|>"]}
SHAPES = {
    "qwen3-0.6b": dict(arch="qwen3", layers=28, hidden=1024, inner=3072, heads=16, kv_heads=8,
                       head=128, vocabulary=151936, context=40960, theta=1e6, eps=1e-6, text=QWEN),
    "llama-3.2-1b": dict(arch="llama", layers=16, hidden=2048, inner=8192, heads=32, kv_heads=8,
                         head=64, vocabulary=128256, context=131072, theta=5e5, eps=1e-5,
                         text=LLAMA),
    "moe-8x": dict(arch="qwen3moe", layers=16, hidden=1024, inner=1536, heads=16, kv_heads=8,
                   head=128, vocabulary=32768, context=40960, theta=1e6, eps=1e-6, text=QWEN,
                   experts=8, used=2),
    # Small enough for a quick look at the drivers; rows are whole blocks of 256.
    "tiny": dict(arch="qwen3", layers=4, hidden=256, inner=512, heads=4, kv_heads=2, head=64,
                 vocabulary=4096, context=4096, theta=1e6, eps=1e-6, text=QWEN),
}
MIXTURES = {"q4_0": 2, "q4_0_pure": 2, "q8_0": 7, "q4_k_m": 15}  # general.file_type


def half(value):
    return struct.pack("<e", value)


def byte_characters():
    """GPT-2's printable stand-ins of the 256 bytes, in the order of its vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(rest))]


def merges():
    """Pairs that each make a new token of two tokens made before: words of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [a + b for a in letters for b in letters]
    space = "\u0120"
    yield from ((space, letter) for letter in letters)
    yield from ((pair[0], pair[1]) for pair in pairs)
    yield from ((space, pair) for pair in pairs)
    yield from ((pair, letter) for pair in pairs for letter in letters)
    for first in pairs:
        for second in pairs:
            yield first, second
            yield space + first, second


def add_vocabulary(file, shape):
    text, size = shape["text"], shape["vocabulary"]
    tokens, pairs = byte_characters(), []
    for left, right in merges():
        if len(tokens) + len(text["specials"]) == size:
            break
        tokens.append(left + right)
        pairs.append(f"{left} {right}")
    ids = {name: len(tokens) + i for i, name in enumerate(text["specials"])}
    types = [1] * len(tokens) + [3] * len(ids)
    tokens += text["specials"]
    file.key("tokenizer.ggml.model", "str", "gpt2")
    file.key("tokenizer.ggml.pre", "str", text["pre"])
    file.key("tokenizer.ggml.tokens", "str", tokens)
    file.key("tokenizer.ggml.token_type", "i32", types)
    file.key("tokenizer.ggml.merges", "str", pairs)
    file.key("tokenizer.ggml.eos_token_id", "u32", ids[text["end"]])
    if "begin" in text:
        file.key("tokenizer.ggml.bos_token_id", "u32", ids[text["begin"]])
    if "pad" in text:
        file.key("tokenizer.ggml.bos_token_id", "u32", ids[text["pad"]])
        file.key("tokenizer.ggml.padding_token_id", "u32", ids[text["pad"]])
    file.key("tokenizer.ggml.add_bos_token", "bool", "begin" in text)
    file.key("tokenizer.chat_template", "str", text["template"])


def add_configuration(file, name, shape, mixture):
    arch = shape["arch"]
    file.key("general.architecture", "str", arch)
    file.key("general.type", "str", "model")
    file.key("general.name", "str", f"{name} random")
    file.key("general.file_type", "u32", MIXTURES[mixture])
    file.key("general.quantization_version", "u32", 2)
    for key, value in (("block_count", shape["layers"]), ("context_length", shape["context"]),
                       ("embedding_length", shape["hidden"]),
                       ("feed_forward_length", shape["inner"]),
                       ("attention.head_count", shape["heads"]),
                       ("attention.head_count_kv", shape["kv_heads"]),
                       ("attention.key_length", shape["head"]),
                       ("attention.value_length", shape["head"]),
                       ("vocab_size", shape["vocabulary"])):
        file.key(f"{arch}.{key}", "u32", value)
    file.key(f"{arch}.attention.layer_norm_rms_epsilon", "f32", shape["eps"])
    file.key(f"{arch}.rope.freq_base", "f32", shape["theta"])
    if arch == "llama":
        file.key("llama.rope.dimension_count", "u32", shape["head"])
    if "experts" in shape:
        file.key(f"{arch}.expert_count", "u32", shape["experts"])
        file.key(f"{arch}.expert_used_count", "u32", shape["used"])
        file.key(f"{arch}.expert_feed_forward_length", "u32", shape["inner"])


def more_bits(layer, layers):
    """Which layers llama-quantize gives Q6_K in attn_v and ffn_down of Q4_K_M."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def matrix_kind(role, layer, shape, mixture):
    """The type of a matrix, as llama-quantize of the released llama.cpp mixes them."""
    if mixture == "q8_0":
        return "Q8_0"
    if mixture == "q4_0_pure":
        return "Q4_0"
    if role == "embedding":
        return "Q6_K"  # it is the head too
    if shape.get("experts") == 8 and role in ("attn_v", "attn_k"):
        return "Q8_0"
    if mixture == "q4_0":
        return "Q4_0"
    if role in ("attn_v", "ffn_down") and more_bits(layer, shape["layers"]):
        return "Q6_K"
    return "Q4_K"


def add_tensors(file, shape, mixture):
    hidden, inner, head = shape["hidden"], shape["inner"], shape["head"]
    wide, narrow = shape["heads"] * head, shape["kv_heads"] * head
    stack = (shape["experts"],) if "experts" in shape else ()
    suffix = "_exps" if stack else ""
    file.tensor("token_embd.weight", (hidden, shape["vocabulary"]),
                matrix_kind("embedding", 0, shape, mixture))
    file.tensor("output_norm.weight", (hidden,), "F32")
    if shape["arch"] == "llama":
        file.tensor("rope_freqs.weight", (head // 2,), "F32")
    for layer in range(shape["layers"]):
        def add(role, dims, kind=None, layer=layer):
            plain = role.removesuffix("_exps")
            file.tensor(f"blk.{layer}.{role}.weight", dims,
                        kind or matrix_kind(plain, layer, shape, mixture))
        add("attn_norm", (hidden,), "F32")
        add("attn_q", (hidden, wide))
        add("attn_k", (hidden, narrow))
        add("attn_v", (hidden, narrow))
        add("attn_output", (wide, hidden))
        if shape["arch"] != "llama":
            add("attn_q_norm", (head,), "F32")
            add("attn_k_norm", (head,), "F32")
        add("ffn_norm", (hidden,), "F32")
        if stack:
            add("ffn_gate_inp", (hidden, *stack), "F32")
        add("ffn_gate" + suffix, (hidden, inner, *stack))
        add("ffn_up" + suffix, (hidden, inner, *stack))
        add("ffn_down" + suffix, (inner, hidden, *stack))


# --- blocks of random weights: every bit pattern is valid, the scales are chosen

UNIFORM_NIBBLE, UNIFORM_BYTE, UNIFORM_SIX = 4.5, 73.9, 18.5  # deviations of the stored integers
REPEATED = bytes((byte & 15) * 17 for byte in range(256))
# Without a mean: a common one would align all activations and the greedy token would never change.
CENTRED_NIBBLES = bytes((byte & 15 or 8) | (byte & 240 or 128) for byte in range(256))
CENTRED_BYTES = bytes(0 if byte == 128 else byte for byte in range(256))


def varied_scale(blocks, stride, count, draw, value):
    """f16 at the start of each block, between `value` and 1.25 times it."""
    high = half(2.0 ** math.floor(math.log2(value)))[1]
    quarter = int((value / 2.0 ** math.floor(math.log2(value)) - 1) * 4)
    blocks[0::stride] = draw.randbytes(count)
    blocks[1::stride] = bytes([high + quarter]) * count


def fill(blocks, stride, count, at, value):
    for i, byte in enumerate(half(value)):
        blocks[at + i::stride] = bytes([byte]) * count


def deviation(name):
    """What attention adds stays small beside the embedding, or all positions would become alike and
    the greedy token would not change."""
    return DEVIATION / 8 if ".attn_output." in name else DEVIATION


def random_blocks(name, kind, count, draw):
    spread = deviation(name)
    stride = tensor_bytes(kind, (256,)) if kind.endswith("_K") else tensor_bytes(kind, (32,))
    blocks = bytearray(draw.randbytes(count * stride))
    if kind == "Q4_0":
        blocks = blocks.translate(CENTRED_NIBBLES)
        varied_scale(blocks, stride, count, draw, spread / UNIFORM_NIBBLE)
    elif kind == "Q8_0":
        blocks = blocks.translate(CENTRED_BYTES)
        varied_scale(blocks, stride, count, draw, spread / UNIFORM_BYTE)
    elif kind == "Q4_K":
        # Sub-scales are uniform in 0..63, and the minimum of each is its scale times 7.5.
        scale = spread / (36.5 * UNIFORM_NIBBLE)
        fill(blocks, stride, count, 0, scale)
        fill(blocks, stride, count, 2, 7.5 * scale)
        for i in range(4):
            blocks[8 + i::stride] = blocks[4 + i::stride]
            blocks[12 + i::stride] = blocks[12 + i::stride].translate(REPEATED)
    elif kind == "Q6_K":
        fill(blocks, stride, count, 208, spread / (UNIFORM_SIX * UNIFORM_BYTE))
    else:
        raise ValueError(f"no random blocks of {kind}")
    return blocks


def llama3_divisors(head, theta):
    """Frequency divisors of Llama 3.2: factor 32, 1 and 4 turns within 8,192 positions."""
    divisors = []
    for i in range(head // 2):
        turns = 8192 * theta ** (-2 * i / head) / (2 * math.pi)
        smooth = min(1.0, max(0.0, (turns - 1) / 3))
        divisors.append(1 / ((1 - smooth) / 32 + smooth))
    return divisors


def tensor_data(shape, seed):
    def make(name, dims, kind):
        draw = random.Random(f"{seed} {name}")
        count = elements(dims)
        if name == "rope_freqs.weight":
            values = llama3_divisors(shape["head"], shape["theta"])
        elif name.endswith("norm.weight"):
            values = [draw.uniform(0.9, 1.1) for _ in range(count)]
        elif kind == "F32":
            values = [draw.gauss(0, 4 * DEVIATION) for _ in range(count)]  # router: wide gaps
        else:
            left = count // (256 if kind.endswith("_K") else 32)
            while left:
                part = min(left, CHUNK_BLOCKS)
                yield random_blocks(name, kind, part, draw)
                left -= part
            return
        yield struct.pack(f"<{count}f", *values)
    return make


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("mixture", choices=MIXTURES)
    parser.add_argument("file")
    parser.add_argument("--seed", default="1")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    file = Writer()
    add_configuration(file, args.shape, shape, args.mixture)
    add_vocabulary(file, shape)
    add_tensors(file, shape, args.mixture)
    part = args.file + ".part"
    file.write(part, tensor_data(shape, args.seed))
    os.replace(part, args.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
