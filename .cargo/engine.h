/* ggml computes the alignment behind word times on a backend that nobody tells how many threads to use, so it takes
 * its default, four that wait for each other busily. On a machine whose cores all have a worker those take turns
 * with everything else: measured here, half the time of a window. whisper.cpp names the number everywhere else. */
#if defined(__has_include)
#if __has_include("ggml.h")
#include "ggml.h"
#undef GGML_DEFAULT_N_THREADS
#define GGML_DEFAULT_N_THREADS 1
#endif
#endif
