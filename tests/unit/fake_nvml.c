/*
 * fake_nvml — a FAKE of NVIDIA's libnvidia-ml.so.1 for tests on hosts without a GPU.
 *
 * Its figures stand in the file named by FAKE_NVML, read anew in each call, so that a test can
 * change them. One thing a line, numbers in decimal:
 *
 *     device TOTAL_MIB USED_MIB BUSY% MEMORY% DEGREES POWER_MW LIMIT_MW NAME...   the next index
 *     process DEVICE PID USED_MIB              USED_MIB < 0: the driver does not tell
 *     draws DEVICE PID USED_MIB                the same in the list of those that draw
 *     fail FUNCTION CODE                       "fail nvmlDeviceGetName 3"
 *     hang                                     every call waits until the line is gone
 *
 * FAKE_NVML_OLD builds one without what newer libraries have, FAKE_NVML_BROKEN one without a
 * function that nobody can do without.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, TOO_SMALL = 7, DEVICES = 24, LINE = 256, POLL_US = 5000 };
static const unsigned long long mib = 1024ULL * 1024;

struct process_info {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
};

struct device {
    long long total, used, busy, memory, degrees, power, limit;
    char name[64];
};

/* Handles are addresses of these. */
static char handles[DEVICES];

static FILE *
open_file(void)
{
    const char *path = getenv("FAKE_NVML");
    return path == NULL ? NULL : fopen(path, "re");
}

/* True if the line begins with `word`; fills numbers[0 .. n). Returns what follows them in *rest.
 */
static int
parse(char *line, const char *word, long long *numbers, int n, char **rest)
{
    size_t length = strlen(word);
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, word, length) != 0 || line[length] != ' ') {
        return 0;
    }
    *rest = line + length;
    for (int i = 0; i < n; i++) {
        char *at = *rest;
        numbers[i] = strtoll(at, rest, 10);
        if (*rest == at) {
            return 0;
        }
    }
    return 1;
}

/* The code that the call must answer with; waits while it must hang. */
static int
enter(const char *function)
{
    for (;;) {
        char line[LINE];
        char word[LINE];
        char *rest;
        int code = OK;
        int hangs = 0;
        FILE *file = open_file();
        snprintf(word, sizeof word, "fail %s", function);
        while (file != NULL && fgets(line, sizeof line, file) != NULL) {
            long long told = 0;
            hangs = hangs || strcmp(line, "hang\n") == 0;
            if (parse(line, word, &told, 1, &rest)) {
                code = (int)told;
            }
        }
        if (file != NULL) {
            fclose(file);
        }
        if (!hangs) {
            return code;
        }
        usleep(POLL_US);
    }
}

/* Returns how many devices there are; fills *out with the one at `index`. */
static int
read_device(int index, struct device *out)
{
    char line[LINE];
    int n = 0;
    FILE *file = open_file();
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        long long v[7];
        char *name;
        if (parse(line, "device", v, 7, &name) && n++ == index) {
            *out = (struct device){ v[0], v[1], v[2], v[3], v[4], v[5], v[6], "" };
            snprintf(out->name, sizeof out->name, "%s", name + strspn(name, " "));
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return n;
}

static int
lookup(const char *function, const char *handle, struct device *out)
{
    int code = enter(function);
    int index = (int)(handle - handles);
    if (code == OK && (index < 0 || index >= read_device(index, out))) {
        code = INVALID;
    }
    return code;
}

static int
list(const char *function, const char *word, const char *handle, unsigned int *count,
     struct process_info *out)
{
    char line[LINE];
    char *rest;
    unsigned int n = 0;
    int code = enter(function);
    FILE *file = code == OK ? open_file() : NULL;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        long long v[3]; /* device, pid, memory */
        if (parse(line, word, v, 3, &rest) && v[0] == handle - handles) {
            if (n < *count) {
                out[n].pid = (unsigned int)v[1];
                out[n].used = v[2] < 0 ? ~0ULL : (unsigned long long)v[2] * mib;
            }
            n++;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    code = n > *count ? TOO_SMALL : code;
    *count = n;
    return code;
}

/* -- what the library exports -- */

#ifndef FAKE_NVML_OLD
int
nvmlInit_v2(void)
{
    return enter("nvmlInit");
}

int
nvmlDeviceGetComputeRunningProcesses_v3(char *device, unsigned int *count, struct process_info *out)
{
    return list("nvmlDeviceGetComputeRunningProcesses", "process", device, count, out);
}

int
nvmlDeviceGetGraphicsRunningProcesses_v3(char *device, unsigned int *count,
                                         struct process_info *out)
{
    return list("nvmlDeviceGetGraphicsRunningProcesses", "draws", device, count, out);
}

int
nvmlDeviceGetEnforcedPowerLimit(char *handle, unsigned int *out)
{
    struct device device = { 0 };
    int code = lookup("nvmlDeviceGetEnforcedPowerLimit", handle, &device);
    *out = (unsigned int)device.limit;
    return code;
}
#else
int
nvmlInit(void)
{
    return enter("nvmlInit");
}

int
nvmlDeviceGetComputeRunningProcesses_v2(char *device, unsigned int *count, struct process_info *out)
{
    return list("nvmlDeviceGetComputeRunningProcesses", "process", device, count, out);
}
#endif

int
nvmlShutdown(void)
{
    return enter("nvmlShutdown");
}

const char *
nvmlErrorString(int code)
{
    return code == 9 ? "Driver Not Loaded" : "Some Error";
}

int
nvmlDeviceGetCount_v2(unsigned int *out)
{
    struct device device;
    int code = enter("nvmlDeviceGetCount");
    *out = (unsigned int)read_device(-1, &device);
    return code;
}

#ifndef FAKE_NVML_BROKEN
int
nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **out)
{
    struct device device;
    char function[64];
    snprintf(function, sizeof function, "nvmlDeviceGetHandleByIndex:%u", index);
    int code = enter(function);
    if (code == OK && (int)index >= read_device(-1, &device)) {
        code = INVALID;
    }
    *out = code == OK ? &handles[index] : NULL;
    return code;
}
#endif

int
nvmlDeviceGetName(char *handle, char *out, unsigned int size)
{
    struct device device = { 0 };
    int code = lookup("nvmlDeviceGetName", handle, &device);
    snprintf(out, size, "%s", device.name);
    return code;
}

int
nvmlDeviceGetUUID(char *handle, char *out, unsigned int size)
{
    struct device device = { 0 };
    int code = lookup("nvmlDeviceGetUUID", handle, &device);
    snprintf(out, size, "GPU-%08x-fa4e-fa4e-fa4e-%012x", 0x1000U + (unsigned)(handle - handles),
             (unsigned)(handle - handles));
    return code;
}

struct memory {
    unsigned long long total, free, used;
};

int
nvmlDeviceGetMemoryInfo(char *handle, struct memory *out)
{
    struct device device = { 0 };
    int code = lookup("nvmlDeviceGetMemoryInfo", handle, &device);
    *out = (struct memory){ device.total * mib, (device.total - device.used) * mib,
                            device.used * mib };
    return code;
}

int
nvmlDeviceGetUtilizationRates(char *handle, unsigned int out[2])
{
    struct device device = { 0 };
    int code = lookup("nvmlDeviceGetUtilizationRates", handle, &device);
    out[0] = (unsigned int)device.busy;
    out[1] = (unsigned int)device.memory;
    return code;
}

int
nvmlDeviceGetTemperature(char *handle, int sensor, unsigned int *out)
{
    struct device device = { 0 };
    int code = lookup("nvmlDeviceGetTemperature", handle, &device);
    *out = sensor == 0 ? (unsigned int)device.degrees : 0;
    return code;
}

int
nvmlDeviceGetPowerUsage(char *handle, unsigned int *out)
{
    struct device device = { 0 };
    int code = lookup("nvmlDeviceGetPowerUsage", handle, &device);
    *out = (unsigned int)device.power;
    return code;
}
