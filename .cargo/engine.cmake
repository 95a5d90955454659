# Read by the engine's CMake build after each of its project() lines. Every C and C++ file begins with engine.h,
# and whisper.cpp itself, which goes over the whole vocabulary for every token of every beam, is compiled for the
# processors that config.toml names, as ggml already is.
if(MSVC)
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:/FI${CMAKE_CURRENT_LIST_DIR}/engine.h>")
else()
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:SHELL:-include ${CMAKE_CURRENT_LIST_DIR}/engine.h>")
    set(whisper_itself "$<AND:$<STREQUAL:$<TARGET_PROPERTY:NAME>,whisper>,$<COMPILE_LANGUAGE:CXX>>")
    if(GGML_AVX2 AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
        add_compile_options("$<${whisper_itself}:SHELL:-mavx2 -mfma -mf16c -mbmi2>")
    endif()
    # Sums may be taken in another order. Infinities must stay: the vocabulary is masked with them.
    add_compile_options("$<${whisper_itself}:SHELL:-fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math -freciprocal-math>")
    add_compile_definitions("$<${whisper_itself}:WHISPERWIRE_EXPF>")
endif()
