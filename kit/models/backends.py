"""Language models with quantised weights: the backends, what each can do on this machine, and what it left alone.

Only the matrices of the decoder layers are quantised. Embeddings, head and norms, and with them the vision tower and
the projector of a vision-language model, stay as they are, as the field does it.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from kit.errors import Fault, ModelError, did_you_mean, listed

EXTRA = "pip install 'multimodal-kit[quantization]'"
_LOW = ("int8", "int4", "nf4")
# They warn at import of what no user can change: a kernel that another package would fetch, and a deprecated call.
_NOISY = ("bitsandbytes.backends.cpu.ops", "torch.utils._pytree")


@dataclass(frozen=True)
class Backend:
    """One way to hold a language model's matrices.

    Args:
        name: What it is called: "bitsandbytes-nf4".
        library: The package that does it; torch for plain floats.
        to: The type of the weights: "nf4".
        settings: Makes transformers' ``quantization_config`` for the type that everything else has; None for floats.
        group: Input columns that share a scale and must divide a matrix's width; 0 where any width will do.
        devices: Where it has kernels.
        trains: Whether gradients flow through it to an adapter.
        saves: Whether what transformers saves of it opens as it was.
        runs: "eager" where that is its quick way, "compiled" where it is slow without ``torch.compile``.
    """

    name: str
    library: str
    to: str
    settings: Callable[[torch.dtype], Any] | None = None
    group: int = 0
    devices: tuple[str, ...] = ("cpu", "cuda")
    trains: bool = True
    saves: bool = True
    runs: str = "eager"

    def missing(self, device: str = "cpu") -> Fault | None:
        """Return why it does not work on this machine, or None where it does."""
        if importlib.util.find_spec(self.library) is None:
            return Fault(self.name, f"needs the package {self.library}", EXTRA)
        if torch.device(device).type not in self.devices:
            what = f"has no kernels for {device}, only for {listed(self.devices)}"
            return Fault(self.name, what, "choose another precision, or another device")
        return None


def bitsandbytes_int8(dtype: torch.dtype) -> Any:  # noqa: ARG001 - it multiplies in float16 whatever it is given
    """Return the settings of LLM.int8(): a scale for each row of a matrix and for each token (arXiv:2208.07339)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def bitsandbytes_nf4(dtype: torch.dtype) -> Any:
    """Return the settings of NF4: 16 levels at a normal's quantiles, in blocks of 64 (arXiv:2305.14314)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def torchao_int8(dtype: torch.dtype) -> Any:  # noqa: ARG001 - the weights' own
    """Return the settings of weights in int8 with one scale for each row; what is multiplied stays float."""
    from torchao.quantization import Int8WeightOnlyConfig

    return _torchao(Int8WeightOnlyConfig())


def torchao_int4(dtype: torch.dtype) -> Any:  # noqa: ARG001 - its kernels know bfloat16 alone
    """Return the settings of weights in int4 with a scale for each 32 columns; only GPUs have kernels for it."""
    from torchao.quantization import Int4WeightOnlyConfig

    return _torchao(Int4WeightOnlyConfig(group_size=32))


def _torchao(kind: Any) -> Any:
    from transformers import TorchAoConfig

    return TorchAoConfig(kind, modules_to_not_convert=["lm_head"])


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        each.name: each
        for each in (
            Backend("float32", "torch", "float32"),
            Backend("bfloat16", "torch", "bfloat16"),
            Backend("float16", "torch", "float16", devices=("cuda",)),
            Backend("bitsandbytes-int8", "bitsandbytes", "int8", bitsandbytes_int8),
            Backend("bitsandbytes-nf4", "bitsandbytes", "nf4", bitsandbytes_nf4),
            Backend("torchao-int8", "torchao", "int8", torchao_int8, runs="compiled"),
            Backend("torchao-int4", "torchao", "int4", torchao_int4, group=32, devices=("cuda",), trains=False),
        )
    }
)


def find_backend(name: str, device: str = "cpu") -> Backend:
    """Return a backend that works on a device of this machine.

    Raises:
        ModelError: no such backend, its package is missing, or it has no kernels there.
    """
    if name not in BACKENDS:
        raise ModelError.of(
            "backend", f"{name!r} is unknown.{did_you_mean(name, BACKENDS)}", "", f"{listed(BACKENDS)}."
        )
    fault = BACKENDS[name].missing(device)
    if fault is not None:
        raise ModelError(fault)
    hush()
    return BACKENDS[name]


def hush() -> None:
    """Silence what libraries say while they are imported; PEFT imports all of them, whatever model it is put on."""
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)


def spared(backend: Backend, dtype: torch.dtype, names: list[str]) -> Any:
    """Return a backend's settings with some modules left as they are, by their whole names."""
    settings: Any = backend.settings(dtype) if backend.settings is not None else None
    where = "llm_int8_skip_modules" if backend.library == "bitsandbytes" else "modules_to_not_convert"
    setattr(settings, where, names)
    return settings


def steady(model: nn.Module) -> int:
    """Keep bitsandbytes from scrambling 4-bit weights; return how many layers were guarded.

    On processors with AVX512-BF16, bitsandbytes 0.49 to 0.50 packs a 4-bit layer anew at its first forward pass in
    evaluation mode, and takes that back wrongly when weights are saved (the scales stay transposed and rounded): the
    model in memory changes by whole logits, and after an evaluation no gradient passes it. It also refuses widths
    that 64 does not divide. Without that path the layer unpacks its weights at every call, which costs time only.
    """
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    for layer in layers:
        state = getattr(layer.weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            what = "was run before it could be guarded, and its 4-bit weights may be scrambled"
            raise ModelError.of(type(model).__name__, what, "load it again, through kit")
        layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    if "bitsandbytes" in sys.modules:  # it says at every call of every layer that it multiplies in float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return len(layers)


@dataclass(frozen=True)
class Covered:
    """How one kind of module is held, over all layers.

    Args:
        module: Its name without its layer's number: "self_attn.q_proj".
        count: How many there are.
        parameters: Their weights, all together.
        to: "int8", "nf4", "int4", or the floats that it was left in.
        why: Why it was not quantised; empty where it was.
    """

    module: str
    count: int
    parameters: int
    to: str
    why: str = ""


def coverage(language: nn.Module) -> tuple[Covered, ...]:
    """Return how each kind of module of a language model is held; adapters on it are left out."""
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    quantised = held_as(language) in _LOW
    for name, module in language.named_modules():
        to = _held(module)
        if "lora_" in name or not to:
            continue
        why = "" if to in _LOW or not quantised else _reason(name, module)
        plain = ".".join(part for part in name.split(".") if not part.isdigit())
        plain = plain.removeprefix("base_model.model.").removesuffix(".base_layer")
        count, total = found.get((plain, to, why), (0, 0))
        found[plain, to, why] = (count + 1, total + _weights(module))
    return tuple(Covered(name, count, total, to, why) for (name, to, why), (count, total) in found.items())


def held_as(language: nn.Module) -> str:
    """Return the type that the matrices of a model's layers are held in: "int8", "nf4", or "float32"."""
    kinds = [to for to in map(_held, language.modules()) if to in _LOW]
    return kinds[0] if kinds else str(next(language.parameters()).dtype).removeprefix("torch.")


def backend_of(language: nn.Module) -> str:
    """Return the name of the backend that quantised a model; empty for a plain one."""
    for module in language.modules():
        if _held(module) in _LOW:
            library = "torchao" if type(module) is nn.Linear else "bitsandbytes"
            return f"{library}-{_held(module)}"
    return ""


def check_coverage(language: nn.Module, backend: Backend) -> None:
    """Make sure that every matrix of every decoder layer was quantised: libraries skip in silence.

    Raises:
        ModelError: each kind of matrix that was not, with its width.
    """
    if backend.settings is None:
        return
    faults = [
        Fault(f"{backend.name}: {one.module}", f"was skipped in silence: {one.why}", "choose another backend")
        for one in coverage(language)
        if one.why.startswith("width")
    ]
    if faults:
        raise ModelError(faults)


def slowness(language: nn.Module, *, seconds: float = 0.05) -> float:
    """Return how quickly a model's widest quantised matrix takes one token, against a float one of its size.

    Args:
        language: A quantised model.
        seconds: How long to measure each.

    Returns:
        The float's seconds over the quantised one's: 0.2 is five times slower. 1 for a plain model.
    """
    layers = [module for module in language.modules() if _held(module) in _LOW]
    if not layers:
        return 1.0
    widest: Any = max(layers, key=_weights)
    floats = next(language.parameters()).dtype
    plain = nn.Linear(widest.in_features, widest.out_features, bias=False, device=widest.weight.device, dtype=floats)
    token = torch.randn(1, 1, widest.in_features, device=widest.weight.device, dtype=floats)
    taken = {id(layer): _fastest(layer, token, seconds) for layer in (plain, widest, plain, widest)}
    return taken[id(plain)] / taken[id(widest)]


@torch.no_grad()
def _fastest(layer: nn.Module, token: Tensor, seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(5):
            layer(token)
        best = min(best, time.perf_counter() - begin)
    return best


def inner_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors that a tensor is made of, by name: itself, or the weights and scales inside torchao's."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from inner_tensors(f"{name}.{part}", getattr(tensor, part))


def _held(module: nn.Module) -> str:
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or hasattr(module, "base_layer"):  # PEFT's layers show their base's weight
        return ""
    kind = type(weight).__name__
    known = {"Int8Params": "int8", "Params4bit": "nf4", "Int8Tensor": "int8"}
    if kind in known:
        return known[kind]
    if kind.startswith("Int4"):
        return "int4"
    return str(weight.dtype).removeprefix("torch.")


def _weights(module: Any) -> int:
    """Return how many weights a module has; two 4-bit ones share a byte, so its shape tells nothing."""
    if hasattr(module, "in_features"):
        return int(module.in_features * module.out_features)
    return int(module.weight.numel())


def _reason(name: str, module: Any) -> str:
    if not hasattr(module, "in_features"):
        return "no matrix"
    if ".layers." not in f".{name}":
        return "embedding or head: stays in high precision"
    return f"width {module.in_features}"
