# Read by the engine's CMake build after each of its project() lines.

# Cargo's dev profile would have it at -O2, where its sums come out otherwise in the last digits, and with them now and
# then a word. What is tested is the engine that is shipped.
set(CMAKE_BUILD_TYPE Release)

# Where whisper.cpp hands out word times it steps behind the last segment and reads what lies there, mostly to no harm:
# sometimes that memory is not the process's (seen as SIGSEGV in whisper_exp_compute_token_level_timestamps_dtw). The
# copy of the source that is being built stops there instead. To look at again with each new version of the engine.
set(engine_source "${CMAKE_CURRENT_SOURCE_DIR}/src/whisper.cpp")
if(EXISTS "${engine_source}")
    file(READ "${engine_source}" engine_text)
    if(NOT engine_text MATCHES "whisperwire: no segment is left")
        string(REPLACE
            "++seg_i;"
            "if (++seg_i == state->result_all.end()) { ggml_free(gctx); return; } // whisperwire: no segment is left"
            engine_mended "${engine_text}")
        if(engine_mended STREQUAL engine_text)
            message(FATAL_ERROR "whisper.cpp gives out word times in another way now: look at engine.cmake again")
        endif()
        file(WRITE "${engine_source}" "${engine_mended}")
    endif()
endif()

# Every C and C++ file begins with engine.h,
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
