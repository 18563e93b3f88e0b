"""A language tower as one GGUF file, with its tokenizer and chat template: for llama.cpp and what is built on it.

The format holds the text part alone: it has no place for a picture that enters between layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kit.errors import Fault, ModelError, raise_faults
from kit.models.halves import trunk
from kit.models.prompts import PromptedAttention

TYPES = {8: "Q8_0", 4: "Q4_1"}
# Names of llama.cpp's tensors by those of transformers' layers.
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_BLOCK = 32  # numbers that share a scale


def write_gguf(path: Path, language: Any, tokenizer: Any, *, bits: int = 8, name: str = "", template: str = "") -> None:
    """Write a language model of Llama's kind.

    Args:
        path: The file.
        language: The model, plain and in float32.
        tokenizer: Its byte-level BPE tokenizer. Tokens without an embedding (a picture's) are left out.
        bits: 8 (Q8_0) or 4 (Q4_1) for matrices; embeddings and head are held in 8, norms in float32.
        name: What the file calls the model.
        template: The chat template; the tokenizer's own by default.

    Raises:
        ModelError: another kind of model or tokenizer; all faults at once.
    """
    import gguf

    config = trunk(language).config
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    _check(language, config, core)
    writer = gguf.GGUFWriter(str(path), "llama")
    try:
        _write_settings(writer, config, name)
        _write_tokenizer(writer, tokenizer, core, config.vocab_size, template or tokenizer.chat_template or "")
        _write_tensors(writer, language, config, bits)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _check(language: Any, config: Any, core: dict[str, Any]) -> None:
    matrices = [module for module in language.modules() if hasattr(module, "in_features")]
    widths = {module.in_features for module in matrices}
    checks = {
        f"is a {config.model_type}, and only Llama's layers are written": config.model_type == "llama",
        "sees by adaption prompts, which the format does not hold": not any(
            isinstance(module, PromptedAttention) for module in language.modules()
        ),
        "has layers that are no plain matrices: merge adapters first": all(
            type(module) is nn.Linear and type(module.weight) is nn.Parameter for module in matrices
        ),
        f"has a width that {_BLOCK} does not divide": all(width % _BLOCK == 0 for width in widths),
        f"has a {core['model']['type']} tokenizer, and only BPE is written": core["model"]["type"] == "BPE",
    }
    raise_faults([Fault("export to GGUF", what) for what, good in checks.items() if not good], ModelError)


def _write_settings(writer: Any, config: Any, name: str) -> None:
    size = config.head_dim or config.hidden_size // config.num_attention_heads
    writer.add_name(name or "kit")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = getattr(config, "rope_parameters", None) or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta") or getattr(config, "rope_theta", 10000.0)))


def _write_tokenizer(writer: Any, tokenizer: Any, core: dict[str, Any], vocabulary: int, template: str) -> None:
    from gguf import TokenType

    known = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {one["id"]: one for one in core["added_tokens"]}
    tokens, kinds = [], []
    for number in range(vocabulary):
        tokens.append(known.get(number, f"[unused {number}]"))
        special = number in added and added[number]["special"]
        kinds.append(
            TokenType.UNUSED if number not in known
            else TokenType.CONTROL if special
            else TokenType.USER_DEFINED if number in added
            else TokenType.NORMAL
        )  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if '"Digits"' in json.dumps(core.get("pre_tokenizer")) else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = core["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    for what in ("bos", "eos", "pad", "unk"):
        number = getattr(tokenizer, f"{what}_token_id")
        if number is not None:
            getattr(writer, f"add_{what}_token_id")(number)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)


def _write_tensors(writer: Any, language: Any, config: Any, bits: int) -> None:
    whole = trunk(language)
    embedding, head = language.get_input_embeddings().weight, language.get_output_embeddings().weight
    _add(writer, "token_embd.weight", _array(embedding), 8)
    if head.data_ptr() != embedding.data_ptr():
        _add(writer, "output.weight", _array(head), 8)
    _add(writer, "output_norm.weight", _array(whole.norm.weight), 0)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for number, layer in enumerate(whole.layers):
        for ours, theirs in _LAYER.items():
            values = _array(layer.get_submodule(ours).weight)
            if ours in heads:
                values = _interleaved(values, heads[ours])
            _add(writer, f"blk.{number}.{theirs}.weight", values, bits if values.ndim == 2 else 0)


def _interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows in llama.cpp's order: a rotary pair side by side, where transformers has it half a head apart."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add(writer: Any, name: str, values: NDArray[np.float32], bits: int) -> None:
    from gguf import GGMLQuantizationType, quants

    if not bits:
        writer.add_tensor(name, values)
        return
    kind = GGMLQuantizationType[TYPES[bits]]
    writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)


def _array(tensor: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return found
