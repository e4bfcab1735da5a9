"""The device that the tests run on: `AUTOCACHE_TEST_DEVICE`, or the CPU."""

from __future__ import annotations

import os

import pretend
from autocache import device

_NAME = os.environ.get("AUTOCACHE_TEST_DEVICE", "cpu")
if _NAME == pretend.NAME:
    pretend.load()

DEVICE = device.require(_NAME)
