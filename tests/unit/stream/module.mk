# tests/unit/stream
