#!/usr/bin/env bash
# Runs, on a machine with a GPU, the programs that `./run cuda_tests` put beside this file.
#   run_there.sh tests [GOOGLETEST ARGUMENT ...]   the kernels' tests
#   run_there.sh engine [GOOGLETEST ARGUMENT ...]  the CUDA backend's; SLUICE_TINY_MODEL names the folder of the trained
#                                                  model (shared/models/tiny), without which goldens are skipped
#   run_there.sh guard [ARGUMENT ...]              the bars
#   run_there.sh prefill [ARGUMENT ...]            those of prompts, docs/benchmarks.md
#   run_there.sh sanitize TOOL PATTERN             compute-sanitizer's TOOL (memcheck, racecheck) over the tests that match
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
toolkit=${CUDA_PATH:-/usr/local/cuda}
export LD_LIBRARY_PATH=$here/lib:$toolkit/lib64:${LD_LIBRARY_PATH:-} PATH=$PATH:$toolkit/bin
what=${1:?expected tests, engine, guard, prefill or sanitize}
shift
case $what in
  tests) "$here/kernels_cuda_tests" "$@" ;;
  engine) "$here/engine_cuda_tests" "$@" ;;
  guard) "$here/guard_cuda" "$@" ;;
  prefill) "$here/guard_prefill" "$@" ;;
  sanitize)
    compute-sanitizer --tool "$1" --error-exitcode 1 "$here/kernels_cuda_tests" --gtest_filter="$2" ;;
  *) echo "run_there.sh: expected tests, engine, guard, prefill or sanitize, found $what" >&2; exit 2 ;;
esac
