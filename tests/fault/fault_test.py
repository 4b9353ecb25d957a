#!/usr/bin/env python3
"""The short round of faults as a test of `make check`. Times are told, not judged, but for what would mean that nothing comes back at all."""
import os
import sys

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration")]
from rounds import main  # noqa: E402

if __name__ == "__main__":
    if os.environ.get("GOMSG_TEST_SHORT"):
        print("skipped: a sanitized build keeps none of the clocks these faults are about; the integration tests of the cluster run with it")
        sys.exit(77)
    sys.exit(main(["--short", "--limit", "20"] + sys.argv[1:]))
