if(SLUICE_SANITIZE)
  # The build type of the presets asan and fuzz: compiles much faster than -O2 -g, keeps assertions, and reports still
  # have their lines.
  set(CMAKE_CXX_FLAGS_SANITIZE "-Og -g1")
  add_compile_options(-fsanitize=${SLUICE_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${SLUICE_SANITIZE})
  if(SLUICE_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 sees uninitialised members in libstdc++'s std::regex once the sanitizers' checks are in between;
    # the release build, which has none, keeps the warning.
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
endif()
if(SLUICE_FUZZ)
  # The parsers report to libFuzzer which branches an input took.
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
