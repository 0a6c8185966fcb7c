#include "tests/fuzz/copy.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

uint8_t *
copy_of(const void *first, size_t n_first, const void *second, size_t n_second)
{
    size_t length = n_first + n_second;
    uint8_t *copy = malloc(length + (length == 0));
    assert(copy != NULL);
    if (n_first > 0) {
        memcpy(copy, first, n_first);
    }
    if (n_second > 0) {
        memcpy(copy + n_first, second, n_second);
    }
    return copy;
}

void
copy_free(uint8_t **copy_p)
{
    free(*copy_p);
    *copy_p = NULL;
}
