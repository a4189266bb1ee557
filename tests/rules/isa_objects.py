"""ISA files leave nothing behind that another file could come to run (docs/kernels.md says why).

The objects of kernels_cpu/*_avx2.cpp, *_avx512.cpp and their like define no weak symbol and export one table each; they and the
headers of kernels_cpu/simd include only contracts, <immintrin.h> and C headers.

Usage: isa_objects.py SOURCE_DIR BINARY_DIR
"""
import pathlib
import re
import subprocess
import sys

ISA_SOURCE = re.compile(r"_(avx2|avxvnni|avx512|avx512vnni|avx512vbmi|amx)\.cpp$")
MOST_EXPORTS = 1
# Contracts and block layouts, but no folder's door, which would bring the whole standard library.
ALLOWED_HEADERS = re.compile(
    r'"kernels_cpu/(simd/\w+|kernels|kernel_tables|panel)\.h"|"quant/(base/number|panel_layout|\w*\d\w*)\.h"'
    r"|<(immintrin|math|stddef|stdint|string)\.h>$")
INCLUDE = re.compile(r"^\s*#\s*include\s*(\S+)")


def check_includes(source_dir):
    files = [p for p in sorted((source_dir / "kernels_cpu").glob("*.cpp")) if ISA_SOURCE.search(p.name)]
    files += sorted((source_dir / "kernels_cpu" / "simd").glob("*.h"))
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if match and not ALLOWED_HEADERS.fullmatch(match.group(1)):
                yield f"{path.relative_to(source_dir)}:{number}: an ISA file must not include {match.group(1)}"


def defined_symbols(object_file):
    """(kind letter, name) of each symbol that the object defines."""
    listing = subprocess.run(["nm", "--defined-only", "-C", str(object_file)], check=True, capture_output=True, text=True)
    for line in listing.stdout.splitlines():
        _, kind, name = line.split(" ", 2)
        yield kind, name


def check_object(object_file):
    symbols = list(defined_symbols(object_file))
    weak = [name for kind, name in symbols if kind in "WwVvu"]
    exported = [name for kind, name in symbols if kind.isupper() and kind not in "WV"]
    for name in weak:
        yield f"{object_file.name}: weak symbol {name}"
    if not 1 <= len(exported) <= MOST_EXPORTS:
        yield f"{object_file.name}: exports {len(exported)} symbols, expected {MOST_EXPORTS}: {', '.join(exported)}"


def is_sanitized(binary_dir):
    cache = (binary_dir / "CMakeCache.txt").read_text(encoding="utf-8")
    return re.search(r"^SLUICE_SANITIZE:\w+=\S", cache, re.MULTILINE) is not None


def main():
    source_dir, binary_dir = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    errors = list(check_includes(source_dir))
    if is_sanitized(binary_dir):
        print("objects skipped: sanitizers add weak symbols of their own; includes checked")
    else:
        objects = [p for p in sorted((binary_dir / "kernels_cpu").rglob("*.cpp.o")) if ISA_SOURCE.search(p.stem)]
        if not objects:
            errors.append(f"no ISA objects under {binary_dir / 'kernels_cpu'}")
        for object_file in objects:
            errors += check_object(object_file)
        print(f"{len(objects)} ISA objects checked")
    for error in errors:
        print(error)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
