"""The command ``kit``: one module per group of commands."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 good, 1 a failed claim, 2 bad input, 130 interrupted."""
    sys.exit(_main())


def _main() -> int:
    import click

    from kit.cli.app import app
    from kit.errors import KitError

    try:
        code = app(standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KitError as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("Interrupted; nothing was left behind.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141  # as a process that SIGPIPE ends
    return code if isinstance(code, int) else 0
