"""Measures what workers cost their backends, and works out what many need: ``make scale``."""
