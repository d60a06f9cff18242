"""Look after data sets:

    python -m difnet.data check DIR              what is in it, and what is wrong with it
    python -m difnet.data show DIR --index 3     an image, its label, and the crop that training would see
    python -m difnet.data convert EXPORT --to DIR     what a tool exported, as a plain folder
    python -m difnet.data prepare voc --root DIR      download a published set

Write ``python -m difnet.data COMMAND --help`` for all options of a command.
"""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = ("check", "show", "convert", "prepare")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        return importlib.import_module(f"difnet.data.commands.{words[0]}").main(words[1:])
    if words and words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    given = f"got {words[0]!r}" if words else "got nothing"
    print(f"difnet.data: error: expected one of {', '.join(COMMANDS)}, {given}; see --help", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
