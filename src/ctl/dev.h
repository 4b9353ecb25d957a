/* `gomsgctl dev`: a cluster of gomsgd processes on this machine, for trying things out and for breaking them. One thread. */
#ifndef GM_CTL_DEV_H
#define GM_CTL_DEV_H

#include <stdbool.h>

/* argv behind "dev". Returns the exit code. */
int dev_main(int argc, char **argv, bool json, bool header);
extern const char dev_usage[];

#endif
