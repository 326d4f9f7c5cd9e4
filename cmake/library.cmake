# SPDX-License-Identifier: Apache-2.0
# The C++ library `qgmm`: the core's objects and one default team; and its installation for find_package and pkg-config.
include(GNUInstallDirs)

# The team has objects of its own, so that only it is compiled with OpenMP, and tests can link it without the library.
set(QGMM_TEAM serial)
if(QGMM_OPENMP)
  find_package(OpenMP COMPONENTS CXX QUIET)
  if(OpenMP_CXX_FOUND)
    set(QGMM_TEAM openmp)
  else()
    message(STATUS "qgmm: no OpenMP for ${CMAKE_CXX_COMPILER}: the default team is serial (Context::parallel_for takes any pool)")
  endif()
endif()
add_library(qgmm_team OBJECT ${PROJECT_SOURCE_DIR}/src/cpu/team_${QGMM_TEAM}.cc)
target_include_directories(qgmm_team PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(qgmm_team PRIVATE qgmm_flags)
if(QGMM_TEAM STREQUAL openmp)
  target_link_libraries(qgmm_team PUBLIC OpenMP::OpenMP_CXX)
endif()

add_library(qgmm $<TARGET_OBJECTS:qgmm_core> $<TARGET_OBJECTS:qgmm_team>)  # static, or shared with BUILD_SHARED_LIBS
add_library(qgmm::qgmm ALIAS qgmm)
target_compile_features(qgmm PUBLIC cxx_std_20)
target_include_directories(qgmm PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
if(QGMM_TEAM STREQUAL openmp)
  target_link_libraries(qgmm PRIVATE OpenMP::OpenMP_CXX)
endif()
# Before 1.0 a minor version may change the ABI.
set_target_properties(qgmm PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

# A wheel installs the component "torch" only.
include(CMakePackageConfigHelpers)
set(QGMM_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/qgmm)
get_target_property(QGMM_LIBRARY_TYPE qgmm TYPE)
set(QGMM_PRIVATE_LIBS "-lstdc++")
set(QGMM_CONFIG_NEEDS "")
if(QGMM_TEAM STREQUAL openmp AND QGMM_LIBRARY_TYPE STREQUAL STATIC_LIBRARY)
  set(QGMM_CONFIG_NEEDS "include(CMakeFindDependencyMacro)\nfind_dependency(OpenMP COMPONENTS CXX)")
  set(QGMM_PRIVATE_LIBS "${OpenMP_CXX_FLAGS} ${QGMM_PRIVATE_LIBS}")
endif()
set(QGMM_LIBS "-lqgmm")
if(QGMM_LIBRARY_TYPE STREQUAL STATIC_LIBRARY)
  string(APPEND QGMM_LIBS " ${QGMM_PRIVATE_LIBS}")  # only the archive is there: `pkg-config --libs` must do without --static
  set(QGMM_PRIVATE_LIBS "")
endif()
configure_package_config_file(cmake/qgmm-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/qgmm-config.cmake
                              INSTALL_DESTINATION ${QGMM_CMAKE_DIR} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/qgmm-config-version.cmake COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH QGMM_PC_PREFIX /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
configure_file(cmake/qgmm.pc.in ${CMAKE_CURRENT_BINARY_DIR}/qgmm.pc @ONLY)

install(TARGETS qgmm EXPORT qgmm-targets COMPONENT cpp)
install(DIRECTORY include/qgmm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT cpp FILES_MATCHING PATTERN "*.h")
install(EXPORT qgmm-targets NAMESPACE qgmm:: DESTINATION ${QGMM_CMAKE_DIR} COMPONENT cpp)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/qgmm-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/qgmm-config-version.cmake
        DESTINATION ${QGMM_CMAKE_DIR} COMPONENT cpp)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/qgmm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT cpp)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT cpp)
