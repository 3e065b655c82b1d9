"""Exceptions, looked at from outside."""
