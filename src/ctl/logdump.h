/* `gomsgctl log dump [--verify] FILE`: a segment file, record by record, without a server. */
#ifndef GM_CTL_LOGDUMP_H
#define GM_CTL_LOGDUMP_H

#include <stdbool.h>

/* Returns the exit code: 0, 1 when damage was found or the file cannot be read, 2 for wrong usage. */
int logdump_main(int argc, char **argv, bool json);

#endif
