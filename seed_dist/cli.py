"""How a command ends: expected errors as one short message and an exit code, defects with their traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from seed_dist.errors import SeedDistError

EXIT_DISK = 8
EXIT_INTERRUPTED = 130


def run_command(main: Callable[[], None]) -> int:
    """Run a command's main function; the value is the exit code for `sys.exit`."""
    try:
        main()
    except SeedDistError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES):
            raise
        place = f" ({error.filename})" if error.filename else ""
        print(
            f"error: the disk refused a write or read: {error.strerror}{place}. What was finished is intact; "
            "free or mend the disk and run the same command again.",
            file=sys.stderr,
        )
        return EXIT_DISK
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from the last finished piece.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0
