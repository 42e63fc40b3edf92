#!/usr/bin/env bash
# bench/gpu.sh OUT_DIR: the CUDA kernels on the GPU of this machine, in under nine minutes and without a
# network. Needs nvcc, CMake, ninja, a compiler, and in python3 pybind11, pytest, hypothesis, CuPy and
# PyTorch. Builds for this device, records what PTX instructions give (golden.json, to be committed
# as tests/host_cuda/golden.json), runs the benchmarks, the device half of the tests and compute-sanitizer
# on a part of them, and once more one shape of every family beside torch.compile. OUT_DIR gets build.txt,
# golden.*, gpu.json, gpu.txt, tests.txt, sanitizer-*.txt, compiled.json, compiled.txt.
# Every part runs even when one before it failed, within what is left of the time; the exit code is 1 then.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bench/gpu.sh OUT_DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
build=${ARRAYNN_GPU_BUILD:-build/gpu}
arch=${ARRAYNN_CUDA_ARCHS:-90a-real}
jobs=$(nproc)
seconds=${ARRAYNN_GPU_SECONDS:-530}
failed=0

# part NAME SECONDS COMMAND...: its output goes to NAME.txt, its last lines are shown.
part() {
  local name=$1 limit=$2 start=$SECONDS code left=$((seconds - SECONDS))
  shift 2
  if [ "$left" -lt 15 ]; then
    echo "== $name: no time left"
    failed=1
    return
  fi
  [ "$limit" -le "$left" ] || limit=$left
  timeout -k 10 "$limit" "$@" >"$out/$name.txt" 2>&1
  code=$?
  [ $code -eq 0 ] || failed=1
  printf '== %-18s %4d s, exit code %d\n' "$name" $((SECONDS - start)) $code
  tail -n "${SHOW:-2}" "$out/$name.txt"
}

build_all() {
  "$python" -c 'import pybind11' && command -v nvcc cmake ninja || return 1
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DARRAYNN_CUDA=ON \
    -DARRAYNN_CUDA_ARCHS="$arch" -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    ninja -C "$build" -j "$jobs" _core _cuda &&
    cmake --install "$build" --prefix python
}

git rev-parse HEAD >"$out/commit.txt" 2>/dev/null
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit,memory.total \
  --format=csv >"$out/device.txt" 2>&1
cat "$out/device.txt"
export -f build_all  # timeout runs programs, not functions
export python build arch jobs
SHOW=4 part build 240 bash -c build_all
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
"$python" -c 'import arraynn as ann; print(ann.show_config()); assert ann.cuda.is_available()' \
  >"$out/config.txt" 2>&1 || { failed=1; cat "$out/config.txt"; }
# A warning of CuPy or PyTorch is no failure of ours.
pytest=("$python" -m pytest -q -p no:cacheprovider -W default -m cuda tests/cuda)
part golden 60 "$python" -m bench.golden "$out/golden.json" --arch "${arch%%-*}"
SHOW=20 part gpu 240 "$python" -m bench.gpu --json "$out/gpu.json"
# NumPy's references take most of the time of the tests.
several=()
"$python" -c 'import xdist' 2>/dev/null && several=(-n 8)
part tests 180 "${pytest[@]}" "${several[@]}"
if command -v compute-sanitizer >/dev/null; then
  subset='test_out_is_filled or test_slices or test_dropout or test_no_arrays'
  for tool in memcheck racecheck; do
    part "sanitizer-$tool" 50 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --target-processes all "${pytest[@]}" -k "$subset" -x
  done
fi
# In what is left: PyTorch's compiler takes seconds a function.
SHOW=20 part compiled 150 "$python" -m bench.gpu --compiled --json "$out/compiled.json"
echo "all $SECONDS s"
exit $failed
