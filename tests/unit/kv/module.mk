# tests/unit/kv
