# tests/unit/log
