#pragma once
/* peer — where a frame came from and an answer goes: a door and the routing id of its ROUTER. */
#include <stdint.h>

enum door_side { DOOR_GATEWAYS, DOOR_WORKERS, DOOR_SIDE_COUNT };

struct peer {
    uint8_t side; /* enum door_side */
    uint8_t length;
    uint8_t id[32];
};
