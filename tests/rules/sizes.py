"""No source file is longer than 500 lines (the aim is 250).

Usage: sizes.py SOURCE_DIR BINARY_DIR
"""
import pathlib
import sys

LIMIT = 500
FOLDERS = ["quant", "kernels_cpu", "kernels_cuda", "offload", "engine", "bench", "tests", "cmake"]
SOURCES = {".h", ".cpp", ".cu", ".cuh", ".py", ".cmake"}


def main():
    root = pathlib.Path(sys.argv[1])
    files = [p for folder in FOLDERS for p in sorted((root / folder).rglob("*")) if p.suffix in SOURCES]
    longest = 0
    failed = not files
    for path in files:
        lines = len(path.read_bytes().splitlines())
        longest = max(longest, lines)
        if lines > LIMIT:
            failed = True
            print(f"{path.relative_to(root)}: {lines} lines, at most {LIMIT} are allowed")
    print(f"{len(files)} files, the longest has {longest} lines")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
