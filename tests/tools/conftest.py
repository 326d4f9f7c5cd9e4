# SPDX-License-Identifier: Apache-2.0
"""The folders of ./run and of its checks become importable."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tools/run", "tools"):
    sys.path.insert(0, str(ROOT / folder))
