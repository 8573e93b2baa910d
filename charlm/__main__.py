"""The entry point of `charlm` and of `python -m charlm`: signals and streams first, then what takes time to import."""

from __future__ import annotations

import sys

from charlm.cli import signals


def main() -> int:
    signals.listen()
    from charlm.cli import streams
    from charlm.runtime import processor

    streams.prepare()
    processor.own_process()
    from charlm.cli.main import run

    code = run(sys.argv[1:])
    signals.settle()
    return code


if __name__ == "__main__":
    sys.exit(main())
