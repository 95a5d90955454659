# Read by the engine's CMake build after each of its project() lines: every C and C++ file begins with engine.h.
add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:$<IF:$<CXX_COMPILER_ID:MSVC>,/FI${CMAKE_CURRENT_LIST_DIR}/engine.h,SHELL:-include ${CMAKE_CURRENT_LIST_DIR}/engine.h>>"
)
