# SPDX-License-Identifier: Apache-2.0
"""The folders of ./run, of its checks and of the benchmark become importable."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tools/run", "tools", "bench"):
    sys.path.insert(0, str(ROOT / folder))
