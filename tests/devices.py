"""The device that the tests run on: `AUTOCACHE_TEST_DEVICE`, or the CPU."""

from __future__ import annotations

import os

from autocache import device

DEVICE = device.require(os.environ.get("AUTOCACHE_TEST_DEVICE", "cpu"))
