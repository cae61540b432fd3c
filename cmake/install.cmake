include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
foreach(floor core kernels swap scheduler models engine)
  install(TARGETS headrace_${floor} EXPORT headrace
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/headrace)
endforeach()
install(TARGETS headrace RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT headrace NAMESPACE headrace:: FILE headrace-targets.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/headrace)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/headrace-config.cmake.in
  ${PROJECT_BINARY_DIR}/headrace-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/headrace)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/headrace-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/headrace-config.cmake
  ${PROJECT_BINARY_DIR}/headrace-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/headrace)
