// A page of a mapped file that cannot be read any more ends the program with one line, like other errors.
#pragma once

namespace sluice::cli {

/// From now on SIGBUS in a mapped file (a model or checkpoint that was cut while it is in use, a disk that
/// fails) says which file and byte, removes unfinished output files and leaves with exit code 1. Elsewhere it
/// does what it always did.
void report_lost_pages();

}  // namespace sluice::cli
