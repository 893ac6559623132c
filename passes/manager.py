"""The pass manager: passes as values with a text form, instruments around them, and fuel to bisect rewrites."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

from ullage.errors import InputError
from ullage.graph.captured import CapturedModel
from ullage.passes.edit import copy_model


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One accountable change: which pass did what where; `error` is the relative error it was measured to cause."""

    pass_name: str
    what: str
    where: str
    error: float = 0.0


def summarise(rewrites: Sequence[Rewrite]) -> list[Rewrite]:
    """Rewrites of one kind as one, in order of first appearance; `where` counts them, `error` is the largest."""
    kinds: dict[tuple[str, str], list[Rewrite]] = {}
    for rewrite in rewrites:
        kinds.setdefault((rewrite.pass_name, rewrite.what), []).append(rewrite)
    return [
        Rewrite(*kind, _places([r.where for r in same]), max(r.error for r in same)) for kind, same in kinds.items()
    ]


def _places(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


@dataclass(slots=True)
class RewriteLog:
    """Collects rewrites and hands out fuel: after `fuel` rewrites (None: no limit) every further one is denied."""

    fuel: int | None = None
    pass_name: str = ""
    rewrites: list[Rewrite] = field(default_factory=list)

    def allow(self, what: str, where: str, error: float = 0.0) -> bool:
        """Record a rewrite that is about to happen; False when the fuel is spent and it must not."""
        if self.fuel is not None and len(self.rewrites) >= self.fuel:
            return False
        self.rewrites.append(Rewrite(self.pass_name, what, where, error))
        return True


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a whole model; the fields of a subclass are its options, `name` is its name everywhere."""

    name: ClassVar[str] = ""

    @abstractmethod
    def run(self, model: CapturedModel, log: RewriteLog) -> None:
        """Rewrite the model in place, asking `log.allow` before each change."""

    def __str__(self) -> str:
        """The text form; options at their defaults are left out."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        options = ",".join(f"{name}={_print_value(value)}" for name, value in given)
        return f"{self.name}{{{options}}}" if options else self.name


class Instrument(Protocol):
    """Watches a pipeline; must not change the model."""

    def before(self, step: int, current: Pass, model: CapturedModel) -> None:
        """Called before pass number `step` (from 0)."""
        ...

    def after(self, step: int, current: Pass, model: CapturedModel, rewrites: Sequence[Rewrite]) -> None:
        """Called after it, with the rewrites of this pass alone."""
        ...


@dataclass(frozen=True)
class PassManager:
    """Runs passes in order on a copy of the model; at most `fuel` rewrites in all (None: no limit)."""

    passes: tuple[Pass, ...]
    instruments: tuple[Instrument, ...] = ()
    fuel: int | None = None

    def run(self, model: CapturedModel) -> tuple[CapturedModel, list[Rewrite]]:
        """The rewritten copy and every rewrite in order."""
        result, log = copy_model(model), RewriteLog(self.fuel)
        for step, current in enumerate(self.passes):
            self._step(step, current, result, log)
        result.module.recompile()
        return result, log.rewrites

    def _step(self, step: int, current: Pass, model: CapturedModel, log: RewriteLog) -> None:
        for instrument in self.instruments:
            instrument.before(step, current, model)
        done = len(log.rewrites)
        log.pass_name = current.name
        current.run(model, log)
        for instrument in self.instruments:
            instrument.after(step, current, model, log.rewrites[done:])

    def __str__(self) -> str:
        return ", ".join(map(str, self.passes))


def bisect(manager: PassManager, model: CapturedModel, is_good: Callable[[CapturedModel], bool]) -> Rewrite | None:
    """The first rewrite after which `is_good` fails, None if the whole pipeline is good.

    Assumes that a bad rewrite stays bad; raises InputError if the model is bad before any rewrite.
    """
    whole, rewrites = manager.run(model)
    if is_good(whole):
        return None
    if not is_good(model):
        raise InputError("the model already fails the check before any rewrite; there is nothing to bisect")
    good, bad = 0, len(rewrites)
    while bad - good > 1:
        middle = (good + bad) // 2
        trial = PassManager(manager.passes, (), middle).run(model)[0]
        good, bad = (middle, bad) if is_good(trial) else (good, middle)
    return rewrites[bad - 1]


_PASS = re.compile(r"\s*([a-z_][a-z0-9_]*)\s*(?:\{([^{}]*)\})?\s*(,|$)")
_OPTION = re.compile(r"\s*([a-z_][a-z0-9_]*)\s*=\s*([^,=]+?)\s*$")


def parse_pipeline(text: str, known: Mapping[str, type[Pass]]) -> tuple[Pass, ...]:
    """The passes that a text such as `simplify, split{grid=4,depth=3}` names; InputError says what is wrong."""
    passes, position = [], 0
    while position < len(text.rstrip()):
        match = _PASS.match(text, position)
        if match is None:
            raise InputError(f"cannot read a pass at {text[position:]!r}; wanted name or name{{option=value,...}}")
        passes.append(_make_pass(match[1], match[2] or "", known))
        position = match.end()
    return tuple(passes)


def _make_pass(name: str, options: str, known: Mapping[str, type[Pass]]) -> Pass:
    if name not in known:
        raise InputError(f"unknown pass {name!r}; known are {', '.join(sorted(known))}")
    kind = known[name]
    values = dict(_parse_option(name, part) for part in options.split(",") if part.strip())
    allowed = {f.name: f.default for f in fields(kind)}
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise InputError(f"pass {name!r} has no option {', '.join(unknown)}; it has {', '.join(allowed) or 'none'}")
    return kind(**{key: _like(name, key, value, allowed[key]) for key, value in values.items()})


def _parse_option(name: str, text: str) -> tuple[str, Any]:
    match = _OPTION.match(text)
    if match is None:
        raise InputError(f"cannot read option {text.strip()!r} of pass {name!r}; wanted option=value")
    return match[1], _parse_value(match[2])


_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


def _parse_value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _print_value(value: Any) -> str:
    words = [word for word, meaning in _WORDS.items() if meaning is value]
    return words[0] if words else str(value)


def _like(name: str, key: str, value: Any, default: Any) -> Any:
    if default is None or value is None or isinstance(value, type(default)):
        return value
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    raise InputError(f"option {key} of pass {name!r} must be {type(default).__name__}, found {value!r}")
