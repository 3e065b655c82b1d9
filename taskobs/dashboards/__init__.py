"""Grafana dashboards and Prometheus rules, written by ``taskobs dashboards``."""
