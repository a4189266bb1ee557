#!/usr/bin/env python3
"""Reads a converted file with PyPI's `gguf` package and compares it with the checkpoint it was made from. Not part of
the test suite: it needs the network once, for a virtual environment of its own.

    tests/oracle/gguf_oracle.py CHECKPOINT_DIRECTORY FILE.gguf

The checkpoint must hold BF16, F16 or F32 tensors. Every tensor of the file is decoded by the package's own code, times
its `.scale` companion, and compared with the checkpoint's values put in place by numpy; the largest relative RMS error
of each type is printed. Exit code 1 when a tensor is missing, misshapen or too far off.
"""
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import venv

PACKAGE = "gguf==0.19.0"
# Relative RMS error; bad only when something is misplaced, for quality has its own tests.
TOLERANCE = {"F32": 0, "F16": 2e-3, "BF16": 4e-3, "Q8_0": 0.01, "Q6_K": 0.04, "Q4_K": 0.13, "MXFP4": 0.16,
             "NVFP4": 0.3}


def enter_environment():
    """Runs this script again with the Python of a virtual environment that has the oracle."""
    directory = pathlib.Path(tempfile.gettempdir()) / f"sluice-gguf-oracle-{os.getuid()}"
    python = directory / "bin" / "python"
    if pathlib.Path(sys.prefix) == directory:
        return
    if not (directory / "complete").exists():
        venv.create(directory, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
        (directory / "complete").touch()
    os.execv(python, [str(python), *sys.argv])


def load_checkpoint(directory):
    import numpy as np
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8:8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            raw = np.frombuffer(data[begin:end], {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[entry["dtype"]])
            if entry["dtype"] == "BF16":
                raw = (raw.astype("<u4") << 16).view("<f4")
            tensors[name] = raw.astype("<f4").reshape(entry["shape"])
    return tensors


NAMES = {
    "attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q_a.weight": "self_attn.q_a_proj.weight", "attn_q_a_norm.weight": "self_attn.q_a_layernorm.weight",
    "attn_q_b.weight": "self_attn.q_b_proj.weight",
    "attn_kv_a_mqa.weight": "self_attn.kv_a_proj_with_mqa.weight",
    "attn_kv_a_norm.weight": "self_attn.kv_a_layernorm.weight", "attn_output.weight": "self_attn.o_proj.weight",
    "indexer.attn_q_b.weight": "self_attn.indexer.wq_b.weight",
    "indexer.attn_k.weight": "self_attn.indexer.wk.weight",
    "indexer.proj.weight": "self_attn.indexer.weights_proj.weight",
    "indexer.k_norm.weight": "self_attn.indexer.k_norm.weight",
    "indexer.k_norm.bias": "self_attn.indexer.k_norm.bias",
    "ffn_gate_inp.weight": "mlp.gate.weight", "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    "nextn.eh_proj.weight": "eh_proj.weight", "nextn.enorm.weight": "enorm.weight",
    "nextn.hnorm.weight": "hnorm.weight", "nextn.shared_head_norm.weight": "shared_head.norm.weight",
    "nextn.embed_tokens.weight": "embed_tokens.weight",
    "nextn.shared_head_head.weight": "shared_head.head.weight",
}
ROOTS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}


def wanted_tensor(name, checkpoint, config):
    """The checkpoint's values in the file's place, numpy's outermost dimension first."""
    import numpy as np
    if name in ROOTS:
        return checkpoint[ROOTS[name]]
    layer, rest = re.fullmatch(r"blk\.(\d+)\.(.*)", name).groups()
    prefix = f"model.layers.{layer}."
    if rest in NAMES:
        return checkpoint[prefix + NAMES[rest]]
    if rest in ("attn_k_b.weight", "attn_v_b.weight"):
        nope = config["qk_nope_head_dim"]
        kv_b = checkpoint[prefix + "self_attn.kv_b_proj.weight"]
        heads = kv_b.reshape(config["num_attention_heads"], nope + config["v_head_dim"], config["kv_lora_rank"])
        return heads[:, :nope].transpose(0, 2, 1) if rest == "attn_k_b.weight" else heads[:, nope:]
    part, kind = re.fullmatch(r"ffn_(gate|up|down)(_exps|_shexp|)\.weight", rest).groups()
    if kind == "_exps":
        return np.stack([checkpoint[f"{prefix}mlp.experts.{expert}.{part}_proj.weight"]
                         for expert in range(config["n_routed_experts"])])
    return checkpoint[f"{prefix}mlp.{'shared_experts.' if kind else ''}{part}_proj.weight"]


def main():
    import gguf
    import numpy as np
    directory, path = pathlib.Path(sys.argv[1]), sys.argv[2]
    config = json.loads((directory / "config.json").read_text())
    checkpoint = load_checkpoint(directory)
    reader = gguf.GGUFReader(path)
    print(f"{path}: {len(reader.fields)} fields, {len(reader.tensors)} tensors, "
          f"architecture {reader.fields['general.architecture'].contents()}")
    decoded = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    failures = 0
    worst = {}
    for tensor in reader.tensors:
        if tensor.name.endswith(".scale"):
            continue
        wanted = wanted_tensor(tensor.name, checkpoint, config)
        found = decoded[tensor.name].astype(np.float64)
        scale = decoded.get(tensor.name.removesuffix(".weight") + ".scale")
        if list(tensor.shape) != list(reversed(wanted.shape)):
            print(f"{tensor.name}: shape {list(tensor.shape)}, expected {list(reversed(wanted.shape))}")
            failures += 1
            continue
        if scale is not None:
            found = found * scale.reshape([-1] + [1] * (found.ndim - 1))
        error = float(np.sqrt(np.sum((found - wanted) ** 2) / np.sum(wanted.astype(np.float64) ** 2)))
        kind = tensor.tensor_type.name
        if error >= worst.get(kind, (-1.0, ""))[0]:
            worst[kind] = (error, tensor.name)
        if not error <= TOLERANCE[kind]:
            print(f"{tensor.name}: relative RMS error {error:.4g} at type {kind}")
            failures += 1
    for kind, (error, name) in sorted(worst.items()):
        print(f"{kind}: largest relative RMS error {error:.4g} ({name})")
    print(f"{len(reader.tensors) - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    enter_environment()
    sys.exit(main())
