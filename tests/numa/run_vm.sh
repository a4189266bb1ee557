#!/usr/bin/env bash
# Runs a program of this machine inside a small virtual machine with two NUMA nodes of two cores and 1 GiB each, by
# software emulation: no KVM, no root, no disk. Everything the program needs travels in the initramfs.
set -euo pipefail

root=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
kernel=${SLUICE_VM_KERNEL:-$root/build/numa/vmlinuz}
patience=${SLUICE_VM_TIMEOUT:-600}  # seconds
refused=125                         # exit status when the program was not run to its end

usage() {
  cat <<'TEXT'
usage: run_vm.sh [-f FILE]... PROGRAM [ARGUMENT ...]

Boots the virtual machine, runs PROGRAM with its arguments as root and with the libraries that ldd names, and returns its
exit status; 125 when it did not come to an end. Standard output and standard error are the program's.
  -f FILE             puts FILE into the machine as /data/NAME
  SLUICE_VM_KERNEL    the kernel to boot (build/numa/vmlinuz)
  SLUICE_VM_TIMEOUT   seconds to wait (600)
TEXT
}

fail() { printf 'run_vm.sh: %s\n' "$*" >&2; exit "$refused"; }

check_tools() {
  local pair missing=()
  for pair in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio ldd:libc-bin; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  ((${#missing[@]} == 0)) || fail "needs Debian packages that are not installed (./run numa installs them): ${missing[*]}"
  [[ -r $kernel ]] || fail "expected a kernel at $kernel (./run numa fetches one, or set SLUICE_VM_KERNEL)"
}

# --- the initramfs ----------------------------------------------------------------------------------------------

# The shared libraries of a program, the loader included; nothing for a static one.
libraries() {
  local listing
  listing=$(ldd "$1" 2>&1) || { [[ $listing == *"not a dynamic executable"* ]] && return; fail "ldd $1: $listing"; }
  [[ $listing != *"not found"* ]] || fail "$1 lacks a library: $(grep 'not found' <<<"$listing")"
  grep -o '/[^ ]*' <<<"$listing"
}

# Puts a program at PLACE inside TREE and its libraries where the loader looks for them.
add_program() {
  local program=$1 tree=$2 place=$3 library needed
  install -D "$program" "$tree$place"
  needed=$(libraries "$program")
  for library in $needed; do
    [[ -e $tree$library ]] || install -D "$(readlink -f "$library")" "$tree$library"
  done
}

quoted() { local word; for word in "$@"; do printf "'%s' " "${word//\'/\'\\\'\'}"; done; }

# Four serial ports keep apart what must not mix: the kernel's words, the program's output, its errors, its status.
write_init() {
  local tree=$1
  shift
  cat >"$tree/init" <<TEXT
#!/bin/busybox sh
export PATH=/bin HOME=/ LANG=C.UTF-8
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
for port in 1 2 3; do stty -F /dev/ttyS\$port raw; done
$(quoted "$@") </dev/null >/dev/ttyS1 2>/dev/ttyS2
echo "exit status \$?" >/dev/ttyS3
poweroff -f
TEXT
  chmod +x "$tree/init"
}

build_initramfs() {
  local tree=$1/tree
  mkdir -p "$tree"/{bin,data,dev,proc,sys,tmp}
  add_program "$(command -v busybox)" "$tree" /bin/busybox
  add_program "$program" "$tree" "/program/$(basename "$program")"
  local file
  for file in "${files[@]}"; do cp -L "$file" "$tree/data/"; done
  write_init "$tree" "/program/$(basename "$program")" "${arguments[@]}"
  # Not compressed: unpacking would be emulated.
  (cd "$tree" && find . -print0 | cpio --null --create --format newc --owner 0:0 --quiet) >"$1/initramfs"
}

# --- the machine ------------------------------------------------------------------------------------------------

boot() {
  local dir=$1 node status=0
  local options=(
    -accel "tcg,thread=multi" -machine q35 -cpu max -smp "4,sockets=2,cores=2,threads=1" -m 2G
    -kernel "$kernel" -initrd "$dir/initramfs"
    -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on"
    -nodefaults -no-user-config -display none -no-reboot
    -serial "file:$dir/console" -serial stdio -serial "file:$dir/stderr" -serial "file:$dir/status"
  )
  for node in 0 1; do
    options+=(-object "memory-backend-ram,id=memory$node,size=1G"
      -numa "node,nodeid=$node,cpus=$((2 * node))-$((2 * node + 1)),memdev=memory$node")
  done
  options+=(-numa "dist,src=0,dst=1,val=21")  # only after both nodes
  timeout --foreground --kill-after=10 "$patience" qemu-system-x86_64 "${options[@]}" </dev/null 2>"$dir/qemu" || status=$?
  cat "$dir/stderr" >&2
  if [[ $(<"$dir/status") =~ ^exit\ status\ ([0-9]+)$ ]]; then return "${BASH_REMATCH[1]}"; fi
  tail -q -n 20 "$dir/qemu" "$dir/console" >&2
  ((status != 124)) || fail "$program had not ended after $patience seconds"
  fail "the virtual machine stopped before $program ended (qemu's exit status: $status)"
}

program=
arguments=()
files=()
while getopts hf: option; do
  case $option in
    h) usage; exit 0 ;;
    f) files+=("$OPTARG") ;;
    *) usage >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
(($# > 0)) || { usage >&2; exit 2; }
program=$(command -v -- "$1") || { printf 'run_vm.sh: expected a program, found %s\n' "$1" >&2; exit 2; }
arguments=("${@:2}")
for file in "${files[@]}"; do [[ -r $file ]] || { printf 'run_vm.sh: expected a file, found %s\n' "$file" >&2; exit 2; }; done

check_tools
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
build_initramfs "$dir"
boot "$dir"
