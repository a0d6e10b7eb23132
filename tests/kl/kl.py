#!/usr/bin/env python3
"""How far a quantised model's next-token distributions are from those of the model it was made of.

For each quantisation the same file runs in Levain and in llama.cpp, over the same text, with all logits of every
position. Two references, both computed by Levain in F32: the model before it was quantised, and the file itself
dequantised; the second shows what the arithmetic adds, without what the quantisation took. llama.cpp's own F32
logits check the reference.

    cargo build --release -p levain-engine --example logits
    python tests/kl/kl.py MODEL.gguf [--types q4_0,q4_k,…] [--work FOLDER] [--json]

MODEL is a GGUF file of the llama architecture in any format; it is turned into F32 first. Its rows are widened with
zeros to a multiple of 256, which changes none of its results, so that every format fits. Needs numpy, gguf and
llama-cpp-python. The folder takes five bytes a weight, twice.
"""
import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import llama_cpp as lib
import numpy as np

HERE = Path(__file__).resolve().parent
FTYPES = {
    "f16": 1, "bf16": 32, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11,
    "q4_k": 14, "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30,
}  # fmt: skip
BLOCK = 256
UBATCH = 512


def wider(model, out):
    """Writes a llama model as F32 whose widths are multiples of 256 and whose results are the same.

    Hidden values beyond the model's own are always zero. The norms' means then run over more values, which their
    weights and epsilon make up for. Query heads beyond its own read zeros, and nothing reads them.
    """
    reader = gguf.GGUFReader(model)
    field = lambda name: reader.fields[name].contents()
    if field("general.architecture") != "llama":
        sys.exit(f"{model} is not of the llama architecture")
    d, heads, kv_heads = (field(f"llama.{k}") for k in ("embedding_length", "attention.head_count", "attention.head_count_kv"))
    if d % heads:
        sys.exit("heads that do not divide the width are not handled")
    dim = d // heads
    group = heads // kv_heads
    wide_group = next(g for g in range(group, group + BLOCK) if g * kv_heads * dim % BLOCK == 0)
    # As many heads times their size as values in a row, since llama.cpp takes one from the other.
    wide = wide_group * kv_heads * dim
    if wide < d:
        sys.exit("the model can't be widened")
    shrink = d / wide

    def columns(values):
        return np.pad(values, ((0, 0), (0, wide - d)))

    def spread_heads(values, axis):
        """Puts empty heads at the end of each group of heads that share keys and values."""
        moved = np.moveaxis(values, axis, 0)
        grouped = moved.reshape(kv_heads, group, dim, -1)
        grouped = np.pad(grouped, ((0, 0), (0, wide_group - group), (0, 0), (0, 0)))
        return np.moveaxis(grouped.reshape(wide, -1), 0, axis)

    def widened(name, values):
        if "norm" in name:
            return np.pad(values * np.float32(shrink**0.5), (0, wide - d))
        if "attn_q.weight" in name:
            return spread_heads(columns(values), 0)
        if "attn_output.weight" in name:
            return np.pad(spread_heads(values, 1), ((0, wide - d), (0, 0)))
        if "ffn_down.weight" in name:
            return np.pad(values, ((0, wide - d), (0, 0)))
        return columns(values)

    writer = gguf.GGUFWriter(out, "llama")
    changed = {
        "llama.embedding_length": wide,
        "llama.attention.head_count": wide_group * kv_heads,
        "llama.rope.dimension_count": dim,
        "llama.attention.layer_norm_rms_epsilon": field("llama.attention.layer_norm_rms_epsilon") * shrink,
        "general.file_type": 0,
    }
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = entry.types[0]
        writer.add_key_value(
            name, changed.pop(name, entry.contents()), kind, entry.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        )
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, np.ascontiguousarray(widened(tensor.name, values)))
    finish(writer)


def dequantised(model, out):
    """Writes the same model with its numbers as F32."""
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = entry.types[0]
            writer.add_key_value(
                name, entry.contents(), kind, entry.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(model, out, ftype):
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = ftype, True, os.cpu_count()
    if lib.llama_model_quantize(str(model).encode(), str(out).encode(), ctypes.byref(params)):
        sys.exit(f"llama.cpp could not quantise to {ftype}")


class Peer:
    """llama.cpp with one file."""

    def __init__(self, path, context):
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, UBATCH, UBATCH
        params.n_threads = params.n_threads_batch = os.cpu_count()
        self.context = lib.llama_init_from_model(self.model, params)
        self.vocab = lib.llama_model_get_vocab(self.model)

    def tokenize(self, text):
        raw = text.encode()
        ids = (lib.llama_token * (len(raw) + 8))()
        count = lib.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), True, False)
        return list(ids[:count])

    def logits(self, tokens):
        width = lib.llama_vocab_n_tokens(self.vocab)
        batch = lib.llama_batch_init(UBATCH, 0, 1)
        rows = []
        for first in range(0, len(tokens), UBATCH):
            part = tokens[first : first + UBATCH]
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, first + i, 1, 1
                batch.seq_id[i][0] = 0
            batch.n_tokens = len(part)
            if lib.llama_decode(self.context, batch):
                sys.exit("llama.cpp could not compute the text")
            rows.append(np.ctypeslib.as_array(lib.llama_get_logits(self.context), (len(part), width)).copy())
        lib.llama_batch_free(batch)
        return np.concatenate(rows)

    def close(self):
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)


def peer_logits(path, tokens):
    peer = Peer(path, len(tokens) + 8)
    rows = peer.logits(tokens)
    peer.close()
    return rows


def levain_logits(program, path, tokens, work):
    ids, out = work / "tokens.txt", work / "logits.f32"
    ids.write_text(" ".join(map(str, tokens)))
    subprocess.run([program, path, ids, out], check=True)
    rows = np.fromfile(out, np.float32).reshape(len(tokens), -1)
    out.unlink()
    return rows


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def compare(reference, rows):
    """Divergence of `rows` from `reference`, over the whole vocabulary, position by position."""
    divergence, same = [], []
    for first in range(0, len(rows), 64):
        p, q = log_softmax(reference[first : first + 64]), log_softmax(rows[first : first + 64])
        divergence.append((np.exp(p) * (p - q)).sum(axis=1))
        same.append(p.argmax(axis=1) == q.argmax(axis=1))
    return np.concatenate(divergence), np.concatenate(same)


def summary(divergence, same):
    return {"mean": float(divergence.mean()), "p99": float(np.quantile(divergence, 0.99)), "same_top": float(same.mean())}


def ratio(ours, peer):
    """Of the means, with its standard error: both ran over the same positions."""
    ratio = ours.mean() / peer.mean()
    return float(ratio), float((ours - ratio * peer).std() / len(ours) ** 0.5 / peer.mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--types", default=",".join(FTYPES), help="formats, separated by commas")
    parser.add_argument("--text", type=Path, default=HERE / "passage.txt")
    parser.add_argument("--levain", type=Path, default=HERE.parents[1] / "target/release/examples/logits")
    parser.add_argument("--work", type=Path, default=Path("/tmp/levain-kl"), help="folder for models and logits")
    parser.add_argument("--json", action="store_true", help="one JSON object a format")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    lib.llama_log_set(silence, None)
    lib.llama_backend_init()

    source = options.work / f"{options.model.stem}.f32.gguf"
    wider(options.model, source)
    peer = Peer(source, 8)
    tokens = peer.tokenize(options.text.read_text())
    peer.close()
    ours = lambda path: levain_logits(options.levain, path, tokens, options.work)
    original = ours(source)
    check = summary(*compare(original, peer_logits(source, tokens)))
    print(f"{len(tokens)} tokens; llama.cpp in F32: KL {check['mean']:.2e}, same top {check['same_top']:.2%}", file=sys.stderr)
    head = f"{'type':7} | {'mean KL':>9} {'llama.cpp':>9} {'ratio':>13} | {'99 %':>8} {'llama.cpp':>9} | {'same top':>8} {'llama.cpp':>9}"
    if not options.json:
        print(f"{'':7} | against the model before it was quantised{'':39} | against the dequantised file")
        print(head, "|", head.split("|", 1)[1])
    for name in options.types.split(","):
        path, plain = options.work / f"{name}.gguf", options.work / "dequantised.gguf"
        quantise(source, path, FTYPES[name])
        dequantised(path, plain)
        levain, peer = ours(path), peer_logits(path, tokens)
        result = {"type": name, "tokens": len(tokens)}
        for key, reference in (("original", original), ("dequantised", ours(plain))):
            a, b = compare(reference, levain), compare(reference, peer)
            of, error = ratio(a[0], b[0])
            result[key] = {"levain": summary(*a), "llama.cpp": summary(*b), "ratio": of, "ratio_error": error}
        path.unlink()
        plain.unlink()
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        cells = []
        for key in ("original", "dequantised"):
            a, b = result[key]["levain"], result[key]["llama.cpp"]
            cells.append(
                f"{a['mean']:9.2e} {b['mean']:9.2e} {result[key]['ratio']:6.3f} ± {result[key]['ratio_error']:.2f} | {a['p99']:8.1e} {b['p99']:9.1e} | "
                f"{a['same_top']:8.2%} {b['same_top']:9.2%}"
            )
        print(f"{name:7} | {cells[0]} | {cells[1]}", flush=True)


main()
