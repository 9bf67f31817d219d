#!/usr/bin/env bash
# The GPU suite on a machine with an NVIDIA driver and Python with NumPy and PyTorch; no Rust, no network.
#
#   bash run.sh [OUT] [--quick] [--gpu N] [--tensorrt DIR]
#
# OUT (default: out) gets report.md, report.json and log.txt. Every part is limited in time, and what it had found is kept if it crashes; until
# the report is made, OUT/parts holds a file for each. Under 8 minutes in all, and up to 5 more where TensorRT builds plans: it is used if the loader
# finds it, or in DIR. N: which GPU, from 0. Code 0: all well; 1: something is wrong; 77: no GPU. --quick: small sizes, a rehearsal whose times mean nothing.
# PYTHON names another Python; TORCH_DEVICE=cpu lets PyTorch run on the processor.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=out gpu=0 quick=() tensorrt=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=(--quick) ;;
    --gpu) gpu=$2; shift ;;
    --tensorrt) tensorrt=(--tensorrt "$(cd "$2" && pwd)"); shift ;;
    *) out=$1 ;;
  esac
  shift
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out/parts" "$out/notes.txt"
touch "$out/notes.txt"
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
SUITE_DATE=$(date -u +%Y-%m-%d)
export SUITE_DATE
if [ ${#quick[@]} -gt 0 ]; then sizes=12 side=96; else sizes=300,40,150,600 side=512; fi

note() { echo "$1" | tee -a "$out/notes.txt"; }
gzip -dc "$here/gpu-suite.gz" >"$scratch/gpu-suite" && chmod +x "$scratch/gpu-suite" || exit 1
common=(--out "$out" --zoo "$here/zoo" --data "$here/data" --gpu "$gpu" --plans "$scratch/plans" "${tensorrt[@]}" "${quick[@]}")
suite() { "$scratch/gpu-suite" "$@" "${common[@]}"; }
# part NAME SECONDS COMMAND…
part() {
  local name=$1 limit=$2 code
  shift 2
  printf '\n== %s (%d s since the start)\n' "$name" $SECONDS
  timeout -k 5 "$limit" "$@" 2>&1 | tee -a "$out/log.txt"
  code=${PIPESTATUS[0]}
  case $code in
    0 | 1) ;;
    77) note "$name: skipped, no GPU." ;;
    124 | 137) note "$name: stopped after $limit s." ;;
    *) note "$name: ended with code $code." ;;
  esac
  return "$code"
}
run() { part "$1" "$2" "$scratch/gpu-suite" "${@:3}" "${common[@]}"; }

: >"$out/log.txt"
run device 10 device
if [ $? -eq 77 ]; then
  echo "No GPU, or no NVIDIA driver: nothing was measured."
  exit 77
fi
run kernels 50 kernels
run plans 300 plans
run engines 90 engines
run studies 90 studies --slices "$sizes"
run bandwidth 50 bandwidth

for slices in ${sizes//,/ }; do suite pixels "$slices" "$scratch/$slices.cells" || note "pixels of $slices slices: failed."; done
if "$python" -c 'import numpy, torch' 2>"$scratch/why"; then
  part pytorch 100 "$python" "$here/pytorch_pipeline.py" --zoo "$here/zoo" --data "$here/data" --pixels "$scratch" \
    --out "$out" --slices "$sizes" --side "$side" --device "${TORCH_DEVICE:-cuda:$gpu}" --seconds 80 "${quick[@]}"
else
  note "pytorch: skipped: $(tail -1 "$scratch/why")"
fi

# On copies of the small sizes, whose results go elsewhere: the tools slow kernels down a hundredfold.
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    part "compute-sanitizer $tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$scratch/gpu-suite" kernels --quick --gpu "$gpu" --out "$scratch/$tool" --zoo "$here/zoo" --data "$here/data"
    case $? in
      0) note "compute-sanitizer $tool: no error in any kernel." ;;
      9) note "**compute-sanitizer $tool: errors; see log.txt.**" ;;
    esac
  done
else
  note "compute-sanitizer: not on this machine."
fi

rm -f "$out/report.json"
"$scratch/gpu-suite" report --out "$out"
code=$?
# The report holds them.
if [ -s "$out/report.json" ]; then rm -rf "$out/parts" "$out/notes.txt"; fi
exit "$code"
