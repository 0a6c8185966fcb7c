/* Which GPU a started instance gets. */
#include "common/scope.h"
#include "worker/devices.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

Test(devices, lists_are_read_and_garbage_is_refused)
{
    struct devices devices;
    static const char *const bad[] = { "",       ",",     "0,",  ",1",
                                       "0,,1",   "a",     "0 1", "-1",
                                       "0-3",    "0,1,0", "all", "16",
                                       "auto,1", "0x1",   " 0",  "99999999999999999999" };
    cr_assert(eq(ptr, (void *)devices_read(&devices, "auto"), NULL));
    cr_assert(zero(u32, devices.count));
    cr_assert(eq(i32, devices_of(&devices, 0), -1));
    cr_assert(eq(ptr, (void *)devices_read(&devices, "3,0,15"), NULL));
    cr_assert(eq(u32, devices.count, 3));
    for (uint32_t i = 0; i < 6; i++) {
        static const int32_t wanted[] = { 3, 0, 15 };
        cr_assert(eq(i32, devices_of(&devices, i), wanted[i % 3]), "in turn");
    }
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        cr_assert(ne(ptr, (void *)devices_read(&devices, bad[i]), NULL), "\"%s\"", bad[i]);
    }
}

Test(devices, a_number_that_no_gpu_has_is_found)
{
    struct devices devices;
    struct nvml_figures figures = { .n_devices = 3 };
    figures.devices[0].present = figures.devices[2].present = true;
    devices_read(&devices, "2,0");
    cr_assert(eq(i64, devices_unknown(&devices, &figures), -1));
    devices_read(&devices, "0,3");
    cr_assert(eq(i64, devices_unknown(&devices, &figures), 3));
    devices_read(&devices, "1,0");
    cr_assert(eq(i64, devices_unknown(&devices, &figures), 1), "counted, but not there");
}

static void
check_choice(const char *visible, const char *wanted)
{
    char got[64] = "";
    struct devices devices;
    struct nvml_figures figures = { .n_devices = 4 };
    for (uint32_t i = 0; i < 4; i++) {
        figures.devices[i].present = i != 2;
        snprintf(figures.devices[i].uuid, NVML_NAME, "GPU-%ua-b", i);
    }
    devices_choose(&devices, &figures, visible);
    for (uint32_t i = 0; i < devices.count; i++) {
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%u", i > 0 ? "," : "",
                 devices.numbers[i]);
    }
    cr_assert(eq(str, (char *)got, (char *)wanted), "%s", visible == NULL ? "(unset)" : visible);
}

Test(devices, without_a_list_all_are_used_that_the_agent_may_see)
{
    check_choice(NULL, "0,1,3");
    check_choice("3,0", "3,0");
    check_choice("1", "1");
    check_choice("GPU-3a,GPU-0a-b", "3,0");
    check_choice(" 1, 0", "1,0");
    check_choice("", "");
    check_choice("-1", "");
    check_choice("NoDevFiles", "");
    check_choice("MIG-1234", "");
    check_choice("GPU-", "");
    check_choice("1,7,0", "1");
    check_choice("1,1,0", "1");
    check_choice("2", "");
    check_choice("1x", "");
}
