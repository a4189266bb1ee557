"""No two types of one namespace share a name: the linker would keep one of two templates that are made with them.

It reads `namespace a {` and `}  // namespace a` as clang-format writes them; anonymous namespaces and types within types are left
out.

Usage: one_definition.py SOURCE_DIR BINARY_DIR
"""
import collections
import pathlib
import re
import sys

FOLDERS = ["quant", "kernels_cpu", "kernels_cuda", "offload", "engine"]
SOURCES = {".h", ".cpp", ".cu", ".cuh"}
OPENED = re.compile(r"(?:inline )?namespace\s*([\w:]*)\s*\{")
CLOSED = re.compile(r"\}\s*// namespace")
TYPE = re.compile(r"(?:template <.*> )?(?:enum class|enum|struct|class|union)\s+(?:alignas\(\w+\)\s+)?(\w+)(?![\w:<])[^;]*\{")


def types_of(path):
    """(qualified name, line number) of each type that the file defines for others to see."""
    namespaces = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := OPENED.match(line):
            namespaces.append(match.group(1))
        elif CLOSED.match(line):
            namespaces.pop()
        elif (match := TYPE.match(line)) and "" not in namespaces:
            yield "::".join([*namespaces, match.group(1)]), number


def main():
    root = pathlib.Path(sys.argv[1])
    places = collections.defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SOURCES:
                for name, number in types_of(path):
                    places[name].append(f"{path.relative_to(root)}:{number}")
    double = {name: found for name, found in places.items() if len(found) > 1}
    for name, found in double.items():
        print(f"{name} is defined in {' and '.join(found)}")
    print(f"{len(places)} types")
    return 1 if double or not places else 0


if __name__ == "__main__":
    sys.exit(main())
