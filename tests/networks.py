"""Schedules shaped like known networks, for figures and for tests of the planner: no kernels behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ullage.passes.plan.planner import PlanRequest, Rates
from ullage.plan.plan import Held, TensorInfo
from ullage.plan.sizes import Size
from ullage.plan.steps import Constant, Gather, Operand, Schedule, Step, Storage

RATES = Rates(220e9, 36e9, 2.5e9, 1e-4, 5e-6)
HELD = (Held("code", 200 * 1024), Held("stacks", 320 * 1024))
_PANEL = 48
Kind = Literal["temp", "input", "output"]


@dataclass
class Network:
    """Builds a schedule step by step; every method returns the name of the storage it makes."""

    steps: list[Step | Gather] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    constants: list[Constant] = field(default_factory=list)

    def storage(self, name: str, size: int, kind: Kind = "temp") -> str:
        """Declare a storage of `size` bytes."""
        self.storages[name] = Storage(name, Size.of(size), kind)
        return name

    def constant(self, name: str, size: int) -> Operand:
        """Declare an untiled constant of `size` bytes."""
        self.constants.append(Constant(name, 1, size))
        return Operand(name, "r")

    def bytes(self, name: str) -> int:
        """Size of a storage."""
        return self.storages[name].bytes.evaluate({})

    def gemm(
        self, name: str, source: str, m: int, n: int, k: int, residual: str | None = None, kind: Kind = "temp"
    ) -> str:
        """out[m, n] = source[m, k] · w + bias (+ residual, in place), float32."""
        tiles = -(-n // _PANEL)
        self.constants.append(Constant(f"{name}.w", tiles, _PANEL * k * 4))
        out = self.storage(f"{name}.out", m * n * 4, kind)
        operands = [Operand(source, "r"), Operand(f"{name}.w", "r", tiled=True), self.constant(f"{name}.b", n * 4)]
        if residual is not None:
            operands.append(Operand(residual, "r"))
        operands.append(Operand(out, "w"))
        pairs = ((3, 4),) if residual is not None else ()
        traffic = 4 * (m * k + n * k + m * n)
        self.steps.append(
            Step(name, f"gemm_{m}_{n}_{k}_{residual is not None}", tuple(operands), (), Size.of(-(-m // 64)),
                 inplace=pairs, flops=2 * m * n * k, bytes=traffic)
        )  # fmt: skip
        return out

    def elementwise(self, name: str, source: str, features: int, kind: Kind = "temp") -> str:
        """A normalisation with two small constants, in place where it can be."""
        size = self.bytes(source)
        out = self.storage(f"{name}.out", size, kind)
        operands = (
            Operand(source, "r"), self.constant(f"{name}.scale", features * 4),
            self.constant(f"{name}.shift", features * 4), Operand(out, "w"),
        )  # fmt: skip
        self.steps.append(
            Step(name, f"norm_{size}", operands, (), Size.of(16), inplace=((0, 3),), flops=size, bytes=2 * size)
        )
        return out

    def request(self, threads: int = 2, rates: Rates = RATES) -> PlanRequest:
        """The whole as a request; inputs and outputs are float32 vectors."""
        schedule = Schedule(tuple(self.steps), tuple(self.storages.values()), tuple(self.constants), ())
        stored = self.storages.items()
        inputs, outputs = (
            tuple(TensorInfo(n, "float32", ((self.bytes(n) // 4,),)) for n, s in stored if s.kind == kind)
            for kind in ("input", "output")
        )
        return PlanRequest(schedule, inputs, outputs, HELD, threads, rates)


def transformer(layers: int, hidden: int, inner: int, heads: int, tokens: int, vocabulary: int) -> PlanRequest:
    """An encoder: word and position tables, then per layer fused qkv, attention, and a feed-forward of two GEMMs."""
    net = Network()
    ids = net.storage("ids", tokens * 8, "input")
    net.constants.append(Constant("words", vocabulary, hidden * 4, gathered=True))
    words = net.storage("words.out", tokens * hidden * 4)
    net.steps.append(Gather("words", "words", Operand(ids, "r"), "int64", Operand(words, "w"), Size.of(tokens)))
    positions = net.constant("positions", 512 * hidden * 4)
    x = net.storage("embedded", tokens * hidden * 4)
    net.steps.append(
        Step("embed", "embed", (Operand(words, "r"), positions, Operand(x, "w")), (), Size.of(tokens),
             inplace=((0, 2),), bytes=3 * tokens * hidden * 4)
    )  # fmt: skip
    x = net.elementwise("embed.norm", x, hidden)
    for i in range(layers):
        qkv = net.gemm(f"{i}.qkv", x, tokens, 3 * hidden, hidden)
        context = net.storage(f"{i}.context", tokens * hidden * 4)
        net.steps.append(
            Step(f"{i}.attention", "attention", (Operand(qkv, "r"), Operand(context, "w")), (), Size.of(heads),
                 thread_bytes=Size.of(64 * 1024), flops=4 * tokens * tokens * hidden, bytes=16 * tokens * hidden)
        )  # fmt: skip
        x = net.elementwise(f"{i}.norm1", net.gemm(f"{i}.proj", context, tokens, hidden, hidden, residual=x), hidden)
        wide = net.gemm(f"{i}.wide", x, tokens, inner, hidden)
        narrow = net.gemm(f"{i}.narrow", wide, tokens, hidden, inner, residual=x)
        last = i == layers - 1
        x = net.elementwise(f"{i}.norm2", narrow, hidden, "output" if last else "temp")
    return net.request()


def minilm() -> PlanRequest:
    """all-MiniLM-L6 at 128 tokens: 22.7 M parameters."""
    return transformer(6, 384, 1536, 12, 128, 30522)


def bert_base() -> PlanRequest:
    """BERT-base at 128 tokens: 109 M parameters."""
    return transformer(12, 768, 3072, 12, 128, 30522)


def resnet50(size: int = 224) -> PlanRequest:
    """ResNet-50 with batch norms folded into convolutions: 25.5 M parameters."""
    net = Network()
    image = net.storage("image", size * size * 3 * 4, "input")
    side = size // 2
    x = net.gemm("stem", image, side * side, 64, 147)
    side //= 2
    pooled = net.storage("pooled", side * side * 64 * 4)
    pool = (Operand(x, "r"), Operand(pooled, "w"))
    net.steps.append(Step("pool", "pool", pool, (), Size.of(side), bytes=side * side * 1280))
    x, channels = pooled, 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            name, stride = f"s{stage}.{block}", 2 if stage and not block else 1
            narrow = net.gemm(f"{name}.a", x, side * side, width, channels)
            side //= stride
            middle = net.gemm(f"{name}.b", narrow, side * side, width, 9 * width)
            shortcut = x if block else net.gemm(f"{name}.down", x, side * side, 4 * width, channels)
            x, channels = net.gemm(f"{name}.c", middle, side * side, 4 * width, width, residual=shortcut), 4 * width
    mean = net.storage("mean", channels * 4)
    average = (Operand(x, "r"), Operand(mean, "w"))
    net.steps.append(Step("mean", "mean", average, (), Size.of(8), bytes=side * side * 8192))
    net.gemm("classes", mean, 1, 1000, channels, kind="output")
    return net.request()
