# tests/unit/resp
