# tests/unit/topology
