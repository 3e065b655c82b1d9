"""Which spans are open in which process, and which of them nobody will end."""
