"""The command `ullage`: chooses the command, turns every error into one line on stderr and an exit code.

Exit codes: 0 done, 1 a check failed, 2 wrong usage or bad input, 3 the budget cannot be met. `run` and `inspect` need
nothing but the runtime; the other commands load typer, rich and torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ullage.errors import BudgetTooSmall, InputError, UllageError

EXIT_DONE, EXIT_CHECK_FAILED, EXIT_USAGE, EXIT_BUDGET = 0, 1, 2, 3
_LEAN = ("run", "inspect")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `ULLAGE_DEBUG=1` lets errors through with their traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if os.environ.get("ULLAGE_DEBUG") == "1":
            raise
        return _fail(message_of(error), EXIT_BUDGET if isinstance(error, BudgetTooSmall) else EXIT_USAGE)


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in _LEAN:
        from ullage.cli_lean import run_command

        return run_command(arguments)
    try:
        from ullage.cli_full import run_command as run_full
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ullage"):
            raise
        raise InputError(
            f"this command needs the package {error.name}: pip install 'ullage[compile]'. "
            f"Without it there are: {', '.join(_LEAN)}."
        ) from error
    return run_full(arguments)


def message_of(error: BaseException) -> str:
    """The error as one line; what is no error of ours says what kind it is."""
    text = " ".join(str(error).split())
    if isinstance(error, UllageError):
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return f"internal error: {type(error).__name__}: {text or 'no message'} (ULLAGE_DEBUG=1 shows where)."


def _fail(message: str, code: int) -> int:
    print(f"ullage: error: {message}", file=sys.stderr)
    return code
