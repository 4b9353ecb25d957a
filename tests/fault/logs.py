"""The logs of a data directory as they lie on disk: the headers of their batches (Kafka record batches v2), read from outside while the node runs or not.

Replicas hold the same batches byte for byte, so equal headers (base offset, epoch, CRC over the rest) mean equal logs: checker C5 compares them without asking the nodes.
"""
import os
import re
import struct

HEADER = struct.Struct(">qiiBI")  # base offset, length behind it, leader epoch, magic, CRC
BATCH_MIN = 61


class Batch:
    __slots__ = ("base", "last", "epoch", "length", "crc")

    def __init__(self, base, last, epoch, length, crc):
        self.base, self.last, self.epoch, self.length, self.crc = base, last, epoch, length, crc

    def same(self):
        return self.last, self.epoch, self.length, self.crc

    def __repr__(self):
        return "[%d..%d epoch %d, %d bytes, crc %08x]" % (self.base, self.last, self.epoch, self.length, self.crc)


def read_segment(path):
    """Batches up to the first bytes that are none: hot segments have zeros behind their end, and a node may be appending."""
    out = []
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    while at + BATCH_MIN <= len(data):
        base, length, epoch, magic, crc = HEADER.unpack_from(data, at)
        if magic != 2 or length < BATCH_MIN - 12 or at + 12 + length > len(data):
            break
        (delta,) = struct.unpack_from(">i", data, at + 23)
        out.append(Batch(base, base + delta, epoch, length + 12, crc))
        at += 12 + length
    return out


def read_logs(data_dir):
    """{"p-0007/main": [Batch, …]} of every log that has a file."""
    out = {}
    for folder, _, files in os.walk(data_dir):
        name = os.path.relpath(folder, data_dir)
        if not re.match(r"p-\d+/(main$|topic/|queue/)", name):
            continue
        batches = []
        for f in sorted(f for f in files if re.fullmatch(r"\d{20}\.log", f)):
            try:
                batches += read_segment(os.path.join(folder, f))
            except FileNotFoundError:  # deleted meanwhile
                pass
        if batches:
            out[name] = batches
    return out


def log_end(batches):
    return batches[-1].last + 1 if batches else 0
