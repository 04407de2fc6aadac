"""The command line. Exit codes: 0 done, 1 could not run, 2 bad usage.

Nothing heavy is imported before a command needs it: ``geartrain --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from geartrain.cli import _output
from geartrain.cli._usage import UsageError, complain
from geartrain.errors import GeartrainError

DONE, COULD_NOT_RUN, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: Arguments without the program's name; those of the process if omitted.
    """
    from geartrain.cli._commands import parse

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Units are written in letters that a pipe or an old terminal may not have: better a ? than no result.
            stream.reconfigure(errors="replace")
    try:
        return parse(list(sys.argv[1:] if argv is None else argv)).execute()
    except SystemExit as stop:  # help, version, completion
        return DONE if not stop.code else COULD_NOT_RUN
    except UsageError as error:
        return _fail(error, BAD_USAGE)
    except KeyboardInterrupt as error:
        return _fail(error, COULD_NOT_RUN, "interrupted before there was anything to show")
    except BrokenPipeError:
        # The reader went away (geartrain ... | head); a second error at exit would only confuse.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except GeartrainError as error:
        return _fail(error, COULD_NOT_RUN)
    except Exception as error:  # whatever a user's training code may raise
        return _fail(error, COULD_NOT_RUN, f"{type(error).__name__}: {complain(error)}")


def _fail(error: BaseException, code: int, message: str | None = None) -> int:
    _output.error(message or str(error))
    if os.environ.get("GEARTRAIN_TRACEBACK") == "1":
        traceback.print_exception(error, file=sys.stderr)
    elif not isinstance(error, (GeartrainError, KeyboardInterrupt)):
        _output.note("Set GEARTRAIN_TRACEBACK=1 to see where it happened.")
    return code
