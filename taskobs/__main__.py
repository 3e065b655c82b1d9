"""``python -m taskobs``."""

from taskobs.cli import main

if __name__ == "__main__":
    main(prog_name="taskobs")
