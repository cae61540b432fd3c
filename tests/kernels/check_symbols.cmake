# Fails when an object compiled for one ISA defines a weak symbol: the linker keeps one copy of such
# a function for the whole program, and a processor without the ISA would stop at it.
string(REPLACE "|" ";" objects "${OBJECTS}")
list(LENGTH objects count)
if(count EQUAL 0)
  message(FATAL_ERROR "no objects to check: the names of the sources have changed")
endif()
foreach(object IN LISTS objects)
  execute_process(COMMAND ${NM} --defined-only -C ${object} OUTPUT_VARIABLE symbols
    COMMAND_ERROR_IS_FATAL ANY)
  # W: weak functions. Weak data is harmless: it holds no instructions.
  if(symbols MATCHES "\n?[0-9a-f]+ (W) ([^\n]*)")
    message(FATAL_ERROR "${object} defines '${CMAKE_MATCH_2}', which is shared with units built "
      "for the baseline: keep it in an unnamed namespace, or do not call it here")
  endif()
endforeach()
