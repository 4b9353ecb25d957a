# src/partition
