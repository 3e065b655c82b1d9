"""General-purpose helpers; they import nothing else of taskobs."""
