#!/bin/sh
# Compiler launcher: runs nvcc and keeps what ptxas says of each kernel (registers, spills, shared memory) beside the
# object, as OBJECT.ptxas, for tests/rules/ptxas_report.py. Everything else that nvcc says passes through.
object=
previous=
for word in "$@"; do
  [ "$previous" = "-o" ] && object=$word
  previous=$word
done
report=$object.ptxas
said=$("$@" 2>&1)
status=$?
info='^ptxas info|^ *[0-9]+ bytes stack frame'
printf '%s\n' "$said" | grep -E "$info" >"$report"
printf '%s\n' "$said" | grep -Ev "$info|^\$" >&2
exit $status
