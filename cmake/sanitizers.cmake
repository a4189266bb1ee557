if(SLUICE_SANITIZE)
  # The preset asan's build type: a third of the time that -O2 -g takes, and reports still have their lines.
  set(CMAKE_CXX_FLAGS_SANITIZE "-Og -g1")
  add_compile_options(-fsanitize=${SLUICE_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${SLUICE_SANITIZE})
  if(SLUICE_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
if(SLUICE_FUZZ)
  # The parsers report to libFuzzer which branches an input took.
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
