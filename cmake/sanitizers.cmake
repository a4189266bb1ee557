if(SLUICE_SANITIZE)
  # The presets' build type: a third of the time that -O2 -g takes, and reports still have their lines.
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
