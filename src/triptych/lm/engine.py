"""The autoregressive step, as fast as this machine can: the same transformer, in one of five tiers.

    native      CPU: one call of native.cpp for all layers: weights are read once, at the speed of memory
    prepacked   CPU: torch's own products, with weights laid out for them beforehand (oneDNN)
    compiled    GPU: a CUDA graph of one step of all requests of a length, compiled once a length and a number of rows
    static      GPU: the same step as torch runs it, where the work is too short to pay for compiling
    plain       the module itself, with whatever weights it has at the moment: in training, with ALiBi, anywhere else

Tokens of one prompt (prefill) and tokens of many requests (a batch) go through the same door: token r belongs to
`caches[r]`. Invariant: all tiers compute the logits of the plain transformer with weights rounded to `precision`; the
native tier gives a token the same bits whatever stands beside it. Threads may share an engine: they take turns. Knows
no ids and no sampling.
"""

import copy
import ctypes
import importlib.util
import threading
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.lm import native
from triptych.lm.blocks import PRECISIONS, Arena, NativeMatrix, Precision, bytes_of, round_rows, rounded
from triptych.lm.cache import Cache
from triptych.lm.static import Place, Shelf, Step, bucket
from triptych.lm.transformer import Transformer

Product = Callable[[Tensor], Tensor]
"""x [n, K] to x Wᵀ [n, N]"""

COMPILE_STEPS = 4000
"""for which a GPU's step is compiled: a guess, at a minute of compiling and some 15 ms that a token spares"""


class Engine:
    """The plain tier."""

    tier = "plain"

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self.shape = transformer.config
        weight = transformer.norm.weight
        self.dtype, self.device = weight.dtype, weight.device

    def cache(self, capacity: int) -> Cache:
        """Room for one request of `capacity` tokens."""
        return Cache.make(self.shape, 1, capacity, self.dtype, self.device)

    def copy(self, into: Cache, seen: Cache) -> None:
        """Begins a cache with what another has seen."""
        into.take_over(seen)

    def product(self, weight: Tensor) -> Product:
        """A head, or any matrix beside the layers."""
        return lambda x: F.linear(x, weight)

    def read(self, x: Tensor, positions: Tensor, caches: Sequence[Cache]) -> Tensor:
        """Hidden states [R, D] of tokens x [R, D] at positions [R]; each is added to its cache.

        Tokens of one cache stand side by side, in their order.
        """
        runs = [(cache, len(list(run))) for cache, run in groupby(caches, key=lambda cache: cache)]
        if len(runs) == len(caches) > 1 and not self.shape.alibi:
            return self.transformer.beside(x, positions, tuple(caches))
        out, first = [], 0
        for cache, count in runs:
            some = slice(first, first + count)
            out.append(self.transformer(x[None, some], positions=positions[None, some], cache=cache)[0])
            first += count
        return torch.cat(out)


class StaticEngine(Engine):
    """One step for all requests of a length, through buffers of fixed sizes; prompts are read by the module itself."""

    def __init__(self, transformer: Transformer, compiler: Callable[[Step], Step] | None = None) -> None:
        super().__init__(transformer)
        assert not self.shape.alibi
        transformer._rates = transformer._rates.to(self.device)  # moved within the step, it would compile it again
        self.tier = "compiled" if compiler else "static"
        self._compiler = compiler or (lambda step: step)
        self._shelves: dict[int, Shelf] = {}
        self._shelves_in_use = threading.Lock()

    def cache(self, capacity: int) -> Cache:
        length = bucket(capacity)
        with self._shelves_in_use:
            if length not in self._shelves:
                self._shelves[length] = Shelf(self.transformer, length, self._compiler)
            return Place(self._shelves[length])

    def copy(self, into: Cache, seen: Cache) -> None:
        with self._shelves_in_use:  # a step of another thread would write between, or move the row
            into.take_over(seen)

    def read(self, x: Tensor, positions: Tensor, caches: Sequence[Cache]) -> Tensor:
        with self._shelves_in_use:
            return self._read(x, positions, caches)

    def _read(self, x: Tensor, positions: Tensor, caches: Sequence[Cache]) -> Tensor:
        if len({id(cache) for cache in caches}) < len(caches):
            return super().read(x, positions, caches)
        of_buffer = dict[Any, list[int]]()
        for number, cache in enumerate(caches):
            of_buffer.setdefault(cache.buffer, []).append(number)  # type: ignore[attr-defined]
        if len(of_buffer) == 1:
            (buffer,) = of_buffer
            only: Tensor = buffer.read(x, positions, caches)
            return only
        out = torch.empty_like(x)
        for buffer, numbers in of_buffer.items():
            out[numbers] = buffer.read(x[numbers], positions[numbers], [caches[number] for number in numbers])
        return out


def cuda_graph(step: Step) -> Step:
    """The step as a CUDA graph; see `StaticEngine`."""
    compiled: Step = torch.compile(step, fullgraph=True, dynamic=False, mode="reduce-overhead")
    return compiled


class PrepackedEngine(Engine):
    """Weights in oneDNN's own order; rounded to `precision`, they meet activations in bfloat16, where the processor can
    multiply these."""

    tier = "prepacked"

    def __init__(self, transformer: Transformer, precision: Precision) -> None:
        linears = {id(layer): PackedLinear(layer.weight, precision) for layer in _linears(transformer)}
        packed = copy.deepcopy(transformer, memo=dict(linears))
        super().__init__(packed)
        self.precision = precision

    def product(self, weight: Tensor) -> Product:
        return PackedLinear(weight, self.precision)


class PackedLinear(nn.Module):
    """x Wᵀ with W [N, K] packed for oneDNN, or in whole numbers."""

    def __init__(self, weight: Tensor, precision: Precision) -> None:
        super().__init__()
        whole = all(size % 32 == 0 for size in weight.shape)  # torch's kernel for whole numbers asks for that
        self.whole = precision == "int8" and whole
        half = precision == "bf16" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # not without AVX-512, say
        self.dtype = torch.bfloat16 if half else torch.float32
        if self.whole:
            self.weight, scale = round_rows(weight.detach().float())
            self.scale = scale.to(torch.bfloat16)
        else:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(rounded(weight.detach(), precision).to(self.dtype), 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self.whole:
            out = torch.ops.aten._weight_int8pack_mm(rows.to(torch.bfloat16), self.weight, self.scale)
        else:
            out = torch.ops.mkldnn._linear_pointwise(rows.to(self.dtype), self.weight, None, "none", [], "")
        shaped: Tensor = out.to(x.dtype).view(*x.shape[:-1], -1)
        return shaped


class NativeEngine(Engine):
    """native.cpp on weights of its own."""

    tier = "native"

    def __init__(self, transformer: Transformer, precision: Precision, library: ctypes.CDLL) -> None:
        super().__init__(transformer)
        self.dtype, self.precision, self._library, self._most = torch.float32, precision, library, library.most_tokens()
        parameters = [*transformer.parameters(), transformer._rates]
        self._arena = Arena(bytes_of(parameters, precision))
        self._model = self._pack(transformer)
        self._scratch = torch.zeros(library.scratch_floats(self._model))
        whole, pointers = ctypes.c_int32 * self._most, ctypes.c_void_p * self._most
        self._place, self._capacity, self._keys, self._values = whole(), whole(), pointers(), pointers()
        self._tables_in_use = threading.Lock()

    def product(self, weight: Tensor) -> Product:
        return NativeMatrix(self._library, weight, self.precision)

    def read(self, x: Tensor, positions: Tensor, caches: Sequence[Cache]) -> Tensor:
        x, positions = x.float().contiguous(), positions.float().contiguous()
        out = torch.empty_like(x)
        with self._tables_in_use:
            for first in range(0, len(x), self._most):
                some = caches[first : first + self._most]
                for r, cache in enumerate(some):
                    cache.reserve(1)
                    self._place[r], self._capacity[r] = cache.filled, cache.capacity
                    self._keys[r], self._values[r] = cache.addresses
                    cache.advance(1)
                self._library.step(
                    self._model,
                    len(some),
                    x.data_ptr() + first * x.stride(0) * 4,
                    out.data_ptr() + first * x.stride(0) * 4,
                    positions.data_ptr() + first * 4,
                    self._place,
                    self._keys,
                    self._values,
                    self._capacity,
                    self._scratch.data_ptr(),
                    torch.get_num_threads(),
                )
        return out

    def _pack(self, transformer: Transformer) -> native.Model:
        shape, keep = self.shape, self._keep
        layers = (native.Layer * shape.layers)()
        for into, layer in zip(layers, transformer.layers, strict=True):
            assert isinstance(layer, nn.Module)
            for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm"):
                norm: Any = getattr(layer, name)
                setattr(into, name, keep(norm.weight) if norm is not None else None)
            for name in ("qkv", "out", "gate_up", "down"):
                weight: Tensor = getattr(layer, name).weight
                if name == "gate_up":  # two rows of gate, then the two of up that go with them
                    weight = weight.view(2, -1, 2, shape.dim).transpose(0, 1).reshape(-1, shape.dim)
                setattr(into, name, self._arena.matrix(weight, self.precision))
        sizes = (shape.layers, shape.dim, shape.heads, shape.num_kv_heads, shape.head_size, shape.hidden_size)
        rest = (keep(transformer.norm.weight), keep(transformer._rates))
        return native.Model(*sizes, shape.norm_eps, 0.0, layers, *rest)

    def _keep(self, vector: Tensor) -> int:
        return self._arena.keep(vector.float())


def make_engine(transformer: Transformer, precision: Precision = "fp32", steps: int = 0) -> Engine:
    """The fastest tier that this machine has for `steps` steps.

    The native tier is built where a compiler is; once built, it is there for every later process.

    Raises:
        ValueError: no such precision, or less than fp32 where that cannot be had.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    weight = transformer.norm.weight
    if weight.is_cuda and not transformer.config.alibi and precision == "fp32":
        return StaticEngine(transformer, cuda_graph if steps > COMPILE_STEPS and _has_triton() else None)
    if weight.device.type != "cpu" or transformer.config.alibi or weight.dtype != torch.float32:
        if precision != "fp32":
            raise ValueError(f"precision={precision}: on a CPU, for stages with rotary positions; leave it out here")
        return Engine(transformer)
    if transformer.config.hidden_size % 2 == 0 and _is_plain(transformer):
        library = native.library()
        if library is not None:
            return NativeEngine(transformer, precision, library)
    if torch.backends.mkldnn.is_available():
        return PrepackedEngine(transformer, precision)
    if precision != "fp32":
        raise ValueError(f"precision={precision} needs a C++ compiler, or a torch with oneDNN: use fp32 here")
    return Engine(transformer)


def _is_plain(transformer: Transformer) -> bool:
    """Whether a layer's products are those of its weights alone, without adapters."""
    names = ("qkv", "out", "gate_up", "down")
    return all(type(getattr(layer, name)) is nn.Linear for layer in transformer.layers for name in names)


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
