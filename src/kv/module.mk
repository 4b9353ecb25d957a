# src/kv
