"""Small tools without a subject of their own; they import nothing of taskobs."""
