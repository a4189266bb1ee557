# sluice_warnings: the flags every target of ours builds with. Warnings are errors.
add_library(sluice_warnings INTERFACE)
set(SLUICE_HOST_WARNINGS -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor -Woverloaded-virtual
  -Wimplicit-fallthrough -Werror)
# nvcc's own glue in a .cu file is neither pedantic nor free of old casts, and its array bounds change sign.
list(JOIN SLUICE_HOST_WARNINGS "," host_warnings_of_cuda)
target_compile_options(sluice_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${SLUICE_HOST_WARNINGS};-Wpedantic;-Wold-style-cast;-Wsign-conversion>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=${host_warnings_of_cuda}>")
