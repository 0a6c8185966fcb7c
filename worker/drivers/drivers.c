#include "common/scope.h"
#include "worker/drivers/driver.h"
#include <stdio.h>
#include <string.h>

/* The table: a new kind of server is a line here and a file beside this one. */
static const struct driver *const drivers[] = {
    &driver_drawbar, &driver_sdapi, &driver_openai, &driver_gradio, &driver_sdcpp, &driver_comfyui,
};

const struct driver *
driver_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_LENGTH(drivers); i++) {
        if (strlen(drivers[i]->name) == length && memcmp(drivers[i]->name, name, length) == 0) {
            return drivers[i];
        }
    }
    return NULL;
}

const char *
driver_names(void)
{
    static char names[256];
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(drivers); i++) {
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i == 0 ? "" : ", ",
                                 drivers[i]->name);
    }
    return names;
}
