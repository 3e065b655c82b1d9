"""Values that the app gives to what follows from its code."""
