"""`python -m charlm` is `charlm`."""

from charlm.cli.main import main

main()
