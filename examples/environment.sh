#!/bin/sh
# One environment variable, with a profile: examples/infer.py knows nothing of autocache.
#
#     sh examples/environment.sh
#
set -eu
examples=$(dirname "$0")
out=${1:-build/examples}
unset AUTOCACHE AUTOCACHE_STATS

python "$examples/infer.py" --out "$out/plain"
AUTOCACHE="$examples/profile.yaml" AUTOCACHE_STATS="$out/stats.json" \
    python "$examples/infer.py" --out "$out/cached"

python - "$out" <<'EOF'
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
plain, cached = (
    json.loads((out / run / "timing.json").read_text())["seconds"] for run in ("plain", "cached")
)
(run,) = json.loads((out / "stats.json").read_text())
print(f"{run['strategy']} ran {run['block_calls']['share']:.0%} of the block calls and was "
      f"{plain / cached:.2f} times as fast")
EOF
