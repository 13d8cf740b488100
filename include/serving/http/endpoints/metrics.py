"""Prometheus' metrics, as BentoML collects them from all workers: GET /metrics (docs/metrics.md)."""

from __future__ import annotations

from include.serving.http.endpoint import Endpoint

ENDPOINTS = (Endpoint("GET", ("/metrics",), "admin", None),)
