#include "base/err.h"

#include <errno.h>

static const struct {
    const char *name;
    const char *text;
} errors[] = {
#define X(n, t) {#n, t},
#include "base/err.def"
#undef X
};

static int err_index(int err)
{
    if (err <= ERR__FIRST || err >= ERR__END)
        return -1;
    return err - ERR__FIRST - 1;
}

const char *err_text(int err)
{
    int i = err_index(err);

    if (err == 0)
        return "success";
    return i < 0 ? "unknown error" : errors[i].text;
}

const char *err_name(int err)
{
    int i = err_index(err);

    if (err == 0)
        return "OK";
    return i < 0 ? "UNKNOWN" : errors[i].name;
}

int err_from_errno(int errnum)
{
    switch (errnum) {
    case 0:
        return 0;
    case ENOMEM:
        return ERR_NOMEM;
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case EMFILE:
    case ENFILE:
        return ERR_NOFILE;
    case EAGAIN:
    case EINTR:
        return ERR_AGAIN;
    case ETIMEDOUT:
        return ERR_TIMEOUT;
    case ENOENT:
        return ERR_NOT_FOUND;
    case EEXIST:
        return ERR_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_ACCESS;
    case EADDRINUSE:
        return ERR_ADDR_IN_USE;
    case ECONNRESET:
    case EPIPE:
        return ERR_CLOSED;
    default:
        return ERR_IO;
    }
}
