"""The ``taskobs`` command."""
