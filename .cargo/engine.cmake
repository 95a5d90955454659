# Read by the engine's CMake build after each of its project() lines.

# Cargo's dev profile would have it at -O2, where its sums come out otherwise in the last digits, and with them now and
# then a word. What is tested is the engine that is shipped.
set(CMAKE_BUILD_TYPE Release)

# mend(OLD NEW): replaces a piece of whisper.cpp in the copy of the source that is being built. A build whose source
# lacks the piece stops: look at these again with each new version of the engine.
set(engine_source "${CMAKE_CURRENT_SOURCE_DIR}/src/whisper.cpp")
macro(mend old new)
    string(REPLACE "${old}" "${new}" engine_mended "${engine_text}")
    if(engine_mended STREQUAL engine_text)
        message(FATAL_ERROR "whisper.cpp has changed where engine.cmake mends it: ${old}")
    endif()
    set(engine_text "${engine_mended}")
endmacro()

if(EXISTS "${engine_source}")
    file(READ "${engine_source}" engine_text)
    if(NOT engine_text MATCHES "whisperwire: ")
        # Where it hands out word times it steps behind the last segment and reads what lies there, mostly to no harm:
        # sometimes that memory is not the process's (seen as SIGSEGV in
        # whisper_exp_compute_token_level_timestamps_dtw).
        mend("++seg_i;"
            "if (++seg_i == state->result_all.end()) { ggml_free(gctx); return; } // whisperwire: no segment is left")

        # Its beam search draws the candidates of a beam at random instead of taking the likeliest, which it has sorted
        # out just before (whisper_sample_token_topk): the same window is heard otherwise each time, and worse.
        mend("        const auto id = dist(decoder.rng);\n        //printf"
            "        const auto id = logits_id[i].second; // whisperwire: the likeliest\n        //printf")
        mend("    std::discrete_distribution<> dist(probs.begin(), probs.end());\n\n    for (int i = 0; i < k"
            "    for (int i = 0; i < k")
        # With them all beams begin alike, so equal candidates have to be passed over from the first token on.
        mend("cur.sequence) && i > 0)" "cur.sequence))")

        # The fallback ladder draws from a state that earlier windows have moved on. Every call begins anew.
        mend("    // TAGS: WHISPER_DECODER_INIT\n    for (int j = 1; j < n_decoders; j++) {"
            "    state->decoders[0].rng = std::mt19937(0); // whisperwire: as the others\n\n    // TAGS: WHISPER_DECODER_INIT\n    for (int j = 1; j < n_decoders; j++) {")

        # Language detection encodes the window, and so does each rung of the ladder, every time the same one: what the
        # encoder heard last is kept. For that, detection must use the window's own context.
        mend("    // auto-detect language if not specified\n"
            "    if (params.audio_ctx <= whisper_n_audio_ctx(ctx)) { state->exp_n_audio_ctx = params.audio_ctx; } // whisperwire: before detection\n\n    // auto-detect language if not specified\n")
        mend("    int32_t exp_n_audio_ctx = 0; // 0 - use default\n"
            "    int32_t exp_n_audio_ctx = 0; // 0 - use default\n    uint64_t encoded = 0; // whisperwire: what the encoder heard last; 0 is nothing\n")
        mend("    const int64_t t_start_us = ggml_time_us();\n\n    // conv\n    {"
            "    const int64_t t_start_us = ggml_time_us();\n\n    const uint64_t heard = whisperwire_fingerprint(wstate.mel.data, mel_offset, wstate.exp_n_audio_ctx);\n    if (heard == wstate.encoded) {\n        return !(abort_callback && abort_callback(abort_callback_data));\n    }\n    wstate.encoded = 0;\n\n    // conv\n    {")
        mend("    wstate.t_encode_us += ggml_time_us() - t_start_us;\n    wstate.n_encode++;\n"
            "    wstate.encoded = heard;\n    wstate.t_encode_us += ggml_time_us() - t_start_us;\n    wstate.n_encode++;\n")
        mend("static bool whisper_encode_internal(\n"
            "static uint64_t whisperwire_fingerprint(const std::vector<float> & mel, int offset, int n_ctx) {\n    uint64_t hash = 0xcbf29ce484222325ull ^ (uint64_t(uint32_t(offset)) << 32 | uint32_t(n_ctx)) ^ mel.size() * 0x9e3779b97f4a7c15ull;\n    for (const float & value : mel) {\n        uint32_t bits;\n        memcpy(&bits, &value, sizeof bits);\n        hash = (hash ^ bits) * 0x100000001b3ull;\n        hash ^= hash >> 29;\n    }\n    return hash ? hash : 1;\n}\n\nstatic bool whisper_encode_internal(\n")

        # Word times come from a pass over the text that leaves out the task, which the model has never seen.
        mend("        tokens.push_back(whisper_token_lang(ctx, lang_id));\n"
            "        tokens.push_back(whisper_token_lang(ctx, lang_id));\n        tokens.push_back(params.translate ? whisper_token_translate(ctx) : whisper_token_transcribe(ctx)); // whisperwire: as in training\n")

        file(WRITE "${engine_source}" "${engine_text}")
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
