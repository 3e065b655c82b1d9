"""What is counted of tasks and workers, how it travels, and how it is exported."""
