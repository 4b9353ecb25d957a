/* What CONFIG RESETSTAT remembers: how many numbers. */
#ifndef GM_RESP_INFO_H
#define GM_RESP_INFO_H

#include <stddef.h>

size_t info_base_count(void);

#endif
