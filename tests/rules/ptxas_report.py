"""No CUDA kernel spills registers, and none has more static shared memory than a block may have on every GPU.

Reads what ptxas said of each object of kernels_cuda/ (cmake/keep_ptxas_report.sh). Dynamic shared memory is added to
the static and checked where it is asked for: kernels_cuda/base/launch.cuh.

Usage: ptxas_report.py SOURCE_DIR BINARY_DIR [--table]
"""
import pathlib
import re
import sys

MOST_SHARED_BYTES = 101376  # kMostSharedBytes of kernels_cuda/base/device.h
ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")


def kernels_of(report):
    """One dict per kernel and architecture."""
    kernel = None
    for line in report.read_text(encoding="utf-8").splitlines():
        if match := ENTRY.search(line):
            kernel = {"name": match.group(1), "arch": match.group(2), "spills": None, "stack": 0}
        elif kernel is None:
            continue  # device functions that were not inlined
        elif match := SPILLS.search(line):
            kernel["stack"] = int(match.group(1))
            kernel["spills"] = int(match.group(2)) + int(match.group(3))
        elif match := USED.search(line):
            kernel["registers"] = int(match.group(1))
            kernel["shared"] = int(match.group(2) or 0)
            yield kernel
            kernel = None


def faults_of(kernel):
    if kernel["spills"] is None:
        yield "ptxas said nothing of spills"
    elif kernel["spills"] > 0:
        yield f"{kernel['spills']} bytes of register spills"
    if kernel["shared"] > MOST_SHARED_BYTES:
        yield f"{kernel['shared']} bytes of shared memory, at most {MOST_SHARED_BYTES} are allowed"


def main():
    source_dir, binary_dir = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    objects = sorted((binary_dir / "kernels_cuda").rglob("*.cu.o"))
    if not objects:
        print("no CUDA objects: built without CUDA")
        return 0
    errors = []
    count = 0
    for path in objects:
        if not (source_dir / "kernels_cuda" / path.name.removesuffix(".o")).exists():
            continue  # of a source that is gone
        report = path.with_name(path.name + ".ptxas")
        if not report.exists() or "ptxas info" not in report.read_text(encoding="utf-8"):
            errors.append(f"{path.name}: no report of ptxas beside the object")
            continue
        for kernel in kernels_of(report):
            count += 1
            if "--table" in sys.argv:
                print(kernel["arch"], kernel["registers"], kernel["shared"], kernel["stack"], kernel["name"])
            errors += [f"{path.name}: {kernel['name']} for {kernel['arch']}: {fault}" for fault in faults_of(kernel)]
    print("\n".join(errors) if errors else f"{count} kernels without spills, within the limit of shared memory")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
