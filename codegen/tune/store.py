"""Choices that were measured, kept on disk for each kind of machine.

One JSON file per signature: what a measurement depends on beside the kernel itself. It is written under a temporary
name and renamed. A file that cannot be read, is no such file, or belongs to something else counts as empty, with a
warning, and is written anew.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache as memoised
from pathlib import Path
from typing import Any

import msgspec

from ullage.codegen.cache import default_directory, key_of, write_atomically
from ullage.codegen.cpp.toolchain import Compiler, native_sources
from ullage.codegen.tiling import AnyTiling, DepthwiseTiling, Tiling
from ullage.target import Target

_FORMAT = 1
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError)
_KINDS: dict[str, type[Tiling] | type[DepthwiseTiling]] = {"dense": Tiling, "depthwise": DepthwiseTiling}


@dataclass(frozen=True, slots=True)
class Signature:
    """A kind of machine, and what makes its kernels: measurements hold for equal ones."""

    cpu: str
    cores: int
    target: str
    threads: int
    compiler: str
    sources: str

    @staticmethod
    def of(cpu: str, cores: int, target: Target, compiler: Compiler) -> Signature:
        """The signature of a processor (its name, the CPUs that this process may use) for code of a target."""
        return Signature(cpu, cores, str(target), target.threads, compiler.version, source_hash())

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{key_of(map(str, asdict(self).values()))[:20]}.json"


@memoised
def source_hash() -> str:
    """The hash of all that kernels are generated from and run by."""
    folder = Path(__file__).parent.parent
    texts = [*(folder / "cpp").rglob("*.py"), *(folder / "cpp").rglob("*.h"), *native_sources()]
    texts += [folder / "templates.py", folder / "tiling.py", *Path(__file__).parent.glob("*.py")]
    return key_of(part for p in sorted(texts) for part in (p.name, p.read_bytes()))


@dataclass(frozen=True, slots=True)
class Choice:
    """What measuring a kernel came to: the tiling, its median time over that of the template's own (1: that one), how
    many others were tried, and the median seconds of a launch with the template's own (0: not measured)."""

    tiling: AnyTiling
    ratio: float
    tried: int
    own_seconds: float


@dataclass
class Store:
    """The choices of one signature, in memory and in `folder` (None: nowhere on disk)."""

    signature: Signature
    folder: Path | None
    choices: dict[str, Choice] = field(default_factory=dict)

    @staticmethod
    def open(signature: Signature, folder: Path | None = None) -> Store:
        """What is known for this signature, in the user's cache unless told otherwise."""
        store = Store(signature, folder or default_directory() / "tuning")
        store.choices.update(store._read())
        return store

    @property
    def path(self) -> Path | None:
        """The file."""
        return None if self.folder is None else self.folder / self.signature.name

    def add(self, key: str, choice: Choice) -> None:
        """Keep a choice, on disk too; other processes' choices stay. A folder that cannot be written is warned of."""
        self.choices[key] = choice
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, _document(self.signature, self._read() | self.choices))
        except OSError as error:
            warnings.warn(f"measured choices are not kept: {self.path}: {error.strerror}.", UserWarning, stacklevel=2)

    def _read(self) -> dict[str, Choice]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            return _choices(json.loads(self.path.read_bytes()), self.signature)
        except _UNREADABLE as error:
            warnings.warn(
                f"{self.path} has no choices for this machine and is written anew: {error}.", UserWarning, stacklevel=3
            )
            return {}


def _document(signature: Signature, choices: Mapping[str, Choice]) -> bytes:
    entries = {key: _entry(choice) for key, choice in sorted(choices.items())}
    document = {"format": _FORMAT, "machine": asdict(signature), "choices": entries}
    return (json.dumps(document, indent=1) + "\n").encode()


def _entry(choice: Choice) -> dict[str, Any]:
    kind = next(kind for kind, known in _KINDS.items() if isinstance(choice.tiling, known))
    return {"kind": kind, **asdict(choice)}


def _choices(document: Any, signature: Signature) -> dict[str, Choice]:
    """The entries of a file; ValueError (or what the wrong shape of a document raises) for a file that is no such."""
    if document["format"] != _FORMAT:
        raise ValueError(f"its format is {document['format']!r}, {_FORMAT} is wanted")
    if document["machine"] != asdict(signature):
        raise ValueError("it belongs to another machine, compiler or version")
    return {str(key): _choice(entry) for key, entry in document["choices"].items()}


def _choice(entry: Any) -> Choice:
    tiling = msgspec.convert(entry["tiling"], _KINDS[entry["kind"]], strict=True)
    ratio, seconds = (msgspec.convert(entry[name], float) for name in ("ratio", "own_seconds"))
    if not (0.0 < ratio <= 1.0 and 0.0 <= seconds < float("inf")):
        raise ValueError(f"a ratio of {ratio}, {seconds} seconds")
    return Choice(tiling, ratio, msgspec.convert(entry["tried"], int), seconds)
