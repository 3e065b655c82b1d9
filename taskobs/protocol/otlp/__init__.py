"""Packed spans as OTLP requests, without the packages of protobuf."""
