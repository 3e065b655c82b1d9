"""``python -m taskobs``."""

from taskobs.cli.main import main

if __name__ == "__main__":
    main(prog_name="taskobs")
