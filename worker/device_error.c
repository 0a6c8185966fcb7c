#include "worker/device_error.h"
#include <stddef.h>
#include <string.h>
#include <strings.h>

/* In any case. What CUDA has once answered so it answers to every later call of the process. */
static const char *const lost[] = {
    "CUDA error",                 /* PyTorch and ggml, before CUDA's own text */
    "device-side assert",         /* cudaErrorAssert */
    "illegal memory access",      /* cudaErrorIllegalAddress */
    "unspecified launch failure", /* cudaErrorLaunchFailure */
    "CUBLAS_STATUS",              /* cuBLAS, by PyTorch and ggml */
    "cuDNN error",                /* PyTorch */
    "HIP error",                  /* PyTorch on ROCm */
    "device lost",                /* Vulkan, in words */
    "DeviceLost",                 /* vulkan.hpp: vk::Queue::submit: ErrorDeviceLost */
    "DEVICE_LOST",                /* Vulkan: VK_ERROR_DEVICE_LOST */
};

/* These may stand beside the words above. */
static const char *const not_lost[] = {
    "out of memory",        /* cudaErrorMemoryAllocation, PyTorch */
    "out_of_memory",        /* our API: API.md */
    "OutOfMemory",          /* the names of exceptions; vulkan.hpp */
    "ALLOC_FAILED",         /* cuBLAS, cuDNN */
    "STATUS_NOT_SUPPORTED", /* cuBLAS, cuDNN: of the call, as by a size */
};

static bool
has_one_of(const char *text, const char *const *words, size_t n_words)
{
    size_t length = strnlen(text, DEVICE_ERROR_LOOK);
    for (size_t i = 0; i < n_words; i++) {
        size_t wanted = strlen(words[i]);
        for (size_t at = 0; at + wanted <= length; at++) {
            if (strncasecmp(text + at, words[i], wanted) == 0) {
                return true;
            }
        }
    }
    return false;
}

bool
device_error_is(const char *message)
{
    return has_one_of(message, lost, sizeof lost / sizeof lost[0]) &&
           !has_one_of(message, not_lost, sizeof not_lost / sizeof not_lost[0]);
}
