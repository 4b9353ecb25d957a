/* ERR_* to the words of RESP. The texts that have no row are made once, from base/err.def, at compile time
 * too. */
#include "base/err.h"
#include "protocols/resp/reply.h"

const char *reply_err_text(int err)
{
    switch (err) {
#define X(name, text)                                                                                        \
    case ERR_##name:                                                                                         \
        return text;
#include "protocols/resp/errors.def"
#undef X
    default:
        break;
    }
    switch (err) {
#define X(name, text)                                                                                        \
    case ERR_##name:                                                                                         \
        return "ERR " text;
#include "base/err.def"
#undef X
    default:
        return "ERR unknown error";
    }
}

void reply_err(struct reply *r, int err)
{
    reply_error(r, reply_err_text(err));
}
