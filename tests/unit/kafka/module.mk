# tests/unit/kafka
