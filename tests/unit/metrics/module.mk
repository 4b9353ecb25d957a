# tests/unit/metrics
