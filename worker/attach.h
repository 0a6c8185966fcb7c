#pragma once
/*
 * attach — the words of --attach and of --driver: "driver=gradio url=http://127.0.0.1:7860 ...".
 *
 * driver= url= name= model= are every driver's; which of user= password= key= endpoint= workflow=
 * extra_steps= it takes says its entry in the table (drivers/driver.h). A value has no spaces.
 */
#include "worker/instance_private.h"

/* Reads a line for an attached instance: driver= and url= must be there. NULL, or what is wrong,
 * for people, in a static text. */
const char *attach_read(struct instance *self, const char *line);
/* Reads "NAME [word ...]" for a started instance: the driver's name, then words of its own. */
const char *attach_read_driver(struct instance *self, const char *line);
