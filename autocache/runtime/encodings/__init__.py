"""The forms in which a cached tensor can be held, each with what it costs and how exact it is."""

from autocache.runtime.encodings.base import Encoding, Held
from autocache.runtime.encodings.bf16 import BFloat16
from autocache.runtime.encodings.fp8 import FP8
from autocache.runtime.encodings.int8 import Int8
from autocache.runtime.encodings.plain import PLAIN, HeldAsIs

LOSSY: dict[str, Encoding] = {each.name: each for each in (BFloat16(), Int8(), FP8())}
"""Those that lose precision, by name; the first ones least, as a rule."""

__all__ = ["LOSSY", "PLAIN", "Encoding", "Held", "HeldAsIs"]
