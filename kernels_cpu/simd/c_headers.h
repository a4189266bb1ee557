// The C library for ISA files, by its C names: <cmath> and <cstring> would bring inline functions of
// namespace std, which such a file must not leave behind (docs/kernels.md).
#pragma once

// NOLINTBEGIN(modernize-deprecated-headers)
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
// NOLINTEND(modernize-deprecated-headers)
