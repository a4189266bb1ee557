"""Include directions: engine -> offload -> kernels_cpu, kernels_cuda -> quant -> quant/base, never back.

Usage: layers.py SOURCE_DIR BINARY_DIR
"""
import pathlib
import re
import sys

# Folder -> folders whose headers its files may include, its own first. The longest matching folder counts.
ALLOWED = {
    "quant/base": ["quant/base"],
    "quant": ["quant", "quant/base"],
    "kernels_cpu": ["kernels_cpu", "quant", "quant/base"],
    "kernels_cuda": ["kernels_cuda", "quant", "quant/base"],
    "offload": ["offload", "kernels_cpu", "kernels_cuda", "quant", "quant/base"],
    "engine": ["engine", "offload", "kernels_cpu", "kernels_cuda", "quant", "quant/base"],
}
FREE = ["bench", "tests"]  # may include anything, and nothing includes them
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
SOURCES = {".h", ".cpp", ".cu", ".cuh"}


def folder_of(path, folders):
    """The longest of `folders` that `path` (with slashes, from the root) lies in."""
    inside = [f for f in folders if path.startswith(f + "/")]
    return max(inside, key=len) if inside else None


def check_file(path, name, root):
    folder = folder_of(name, ALLOWED)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        included = match.group(1)
        target = folder_of(included, list(ALLOWED) + FREE)
        if target is None or not (root / included).is_file():
            yield f'{name}:{number}: "{included}" is not a path from the repository root'
        elif target not in ALLOWED[folder]:
            yield f"{name}:{number}: {folder} must not include {included}"


def main():
    root = pathlib.Path(sys.argv[1])
    errors = []
    files = 0
    for top in sorted({folder.split("/")[0] for folder in ALLOWED}):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SOURCES:
                files += 1
                errors += check_file(path, path.relative_to(root).as_posix(), root)
    print("\n".join(errors) if errors else f"{files} files include downward only")
    if files == 0:
        errors.append("no sources")
        print(f"no sources under {root}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
