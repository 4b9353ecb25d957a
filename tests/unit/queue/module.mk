# tests/unit/queue
