"""The device that the tests run on: `AUTOCACHE_TEST_DEVICE`, or the CPU.

Besides those of torch there is `emulated`, an accelerator for machines without one.
"""

from __future__ import annotations

import os

import emulated
from autocache import device

_NAME = os.environ.get("AUTOCACHE_TEST_DEVICE", "cpu")

DEVICE = emulated.device() if _NAME == "emulated" else device.require(_NAME)
