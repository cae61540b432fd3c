# headrace_library(<folder> SOURCES … HEADERS … LINKS … [PRIVATE …]): one static library per floor.
# LINKS name other floors and must equal the table in docs/architecture.md (tests/tidy checks it);
# PRIVATE names outside libraries.
add_library(headrace_options INTERFACE)
target_compile_options(headrace_options INTERFACE -Wall -Wextra -Wpedantic -Werror -Wshadow
  -Wno-missing-field-initializers
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # GCC 12 warns of std::string's own + (its bug 105329)
if(HEADRACE_DEBUG_ASSERTS)
  target_compile_definitions(headrace_options INTERFACE HEADRACE_DEBUG_ASSERTS=1)
endif()
if(HEADRACE_SANITIZE)
  target_compile_options(headrace_options INTERFACE -fsanitize=${HEADRACE_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(headrace_options INTERFACE -fsanitize=${HEADRACE_SANITIZE})
endif()

function(headrace_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;HEADERS;LINKS;PRIVATE" ${ARGN})
  if(NOT arg_SOURCES)
    file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp "")
    set(arg_SOURCES ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp)
  endif()
  add_library(headrace_${name} STATIC ${arg_SOURCES})
  add_library(headrace::${name} ALIAS headrace_${name})
  set_target_properties(headrace_${name} PROPERTIES EXPORT_NAME ${name})
  target_sources(headrace_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}
    FILES ${arg_HEADERS})
  target_include_directories(headrace_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include/headrace>)
  target_compile_features(headrace_${name} PUBLIC cxx_std_20)  # whoever links it needs it too
  set(links "")
  foreach(floor IN LISTS arg_LINKS)
    list(APPEND links headrace_${floor})
  endforeach()
  target_link_libraries(headrace_${name} PUBLIC ${links} PRIVATE ${arg_PRIVATE}
    $<BUILD_INTERFACE:headrace_options>)
endfunction()

# A program's own code is not what takes time when it runs, but it is when it is compiled: headers of
# CLI11 and GoogleTest take half as long with -O1.
function(headrace_quick_to_build target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

# headrace_test(<name> SOURCES … LINKS … [PRIVATE …]): one GoogleTest program, run by ctest.
function(headrace_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINKS;PRIVATE;LABELS;TIMEOUT" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  set(links "")
  foreach(floor IN LISTS arg_LINKS)
    list(APPEND links headrace_${floor})
  endforeach()
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${links} ${arg_PRIVATE} headrace_options
    GTest::gtest GTest::gmock GTest::gtest_main)
  headrace_quick_to_build(${name})
  # Every macro of GoogleTest would be checked for null pointers and the like, which doubles the time
  # to compile; the floors keep all checks. Of the sources, to stand behind -fsanitize.
  if(HEADRACE_SANITIZE MATCHES "undefined")
    set_source_files_properties(${arg_SOURCES} PROPERTIES COMPILE_OPTIONS
      -fno-sanitize=null,alignment,vptr,object-size)
  endif()
  # GCC 12 takes the operator new that a test counts with for the library's.
  target_compile_options(${name} PRIVATE
    $<$<CXX_COMPILER_ID:GNU>:-Wno-mismatched-new-delete>)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}")
  set_property(GLOBAL APPEND PROPERTY HEADRACE_TEST_PROGRAMS ${name})
endfunction()

# headrace_test_group(<name> <regex>): a target that builds the test and fuzz programs whose names
# match, for builds that need not have them all. After all tests.
function(headrace_test_group name regex)
  get_property(programs GLOBAL PROPERTY HEADRACE_TEST_PROGRAMS)
  list(FILTER programs INCLUDE REGEX "${regex}")
  if(NOT programs)
    message(FATAL_ERROR "no test program is called ${regex}")
  endif()
  add_custom_target(${name} DEPENDS ${programs})
endfunction()
