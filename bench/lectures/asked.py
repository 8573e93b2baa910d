"""The command line of the scripts beside it."""

from __future__ import annotations

import argparse


def asked(description: str | None, **arguments: str) -> argparse.Namespace:
    """What was given: positional arguments by name, with their help, and -o FILE.svg."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, about in arguments.items():
        parser.add_argument(name, help=about)
    parser.add_argument("-o", "--output", required=True, metavar="FILE.svg", help="picture to write")
    return parser.parse_args()
