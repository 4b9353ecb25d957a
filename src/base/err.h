/* Errors: 0 or a negative ERR_*, one for each row of err.def. Pure; any thread. */
#ifndef GM_BASE_ERR_H
#define GM_BASE_ERR_H

enum {
    ERR_OK = 0,
    ERR__FIRST = -1000,
#define X(name, text) ERR_##name,
#include "base/err.def"
#undef X
    ERR__END
};

/* The words of an error ("no space left on the device"); never NULL, static. */
const char *err_text(int err);
/* Its name as in the table ("NOSPACE"), for diagnostics and metrics labels. */
const char *err_name(int err);
/* The nearest ERR_* of an errno; ERR_IO where nothing fits. */
int err_from_errno(int errnum);

#endif
