#include "broker/retention.h"
#include "common/limits.h"

uint32_t
retention_s(uint32_t full_s, uint64_t used_bytes, uint64_t max_bytes)
{
    uint64_t low = max_bytes / 100 * LIMIT_RETENTION_LOW_PERCENT;
    uint64_t high = max_bytes / 100 * LIMIT_RETENTION_HIGH_PERCENT;
    if (full_s <= LIMIT_RETENTION_MIN_S || high <= low || used_bytes <= low) {
        return full_s;
    }
    if (used_bytes >= high) {
        return LIMIT_RETENTION_MIN_S;
    }
    double left = (double)(high - used_bytes) / (double)(high - low);
    return LIMIT_RETENTION_MIN_S + (uint32_t)(left * (full_s - LIMIT_RETENTION_MIN_S));
}
