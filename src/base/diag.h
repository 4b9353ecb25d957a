/* Diagnostics: one logfmt line an event on stderr (systemd's journal reads it), `ts=… level=… msg="…" key=value`.
 * Any thread; a line is one write(2). A place that may repeat uses DIAG_EVERY so that a flood costs one line a
 * second with the count of those left out. */
#ifndef GM_BASE_DIAG_H
#define GM_BASE_DIAG_H

#include <stdbool.h>
#include <stdint.h>

enum diag_level { DIAG_DEBUG, DIAG_INFO, DIAG_WARN, DIAG_ERROR };

void diag_set_level(enum diag_level level);
bool diag_level_parse(const char *word, enum diag_level *ret); /* debug, info, warn, error */
bool diag_enabled(enum diag_level level);

/* `msg` is a constant phrase; `fmt` makes the key=value pairs, "" for none. Values that may hold blanks are
 * quoted by the caller: name=\"%s\". */
void diag(enum diag_level level, const char *msg, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define diag_debug(msg, ...)                                                                                 \
    do {                                                                                                     \
        if (diag_enabled(DIAG_DEBUG))                                                                        \
            diag(DIAG_DEBUG, msg, __VA_ARGS__);                                                              \
    } while (0)
#define diag_info(msg, ...) diag(DIAG_INFO, msg, __VA_ARGS__)
#define diag_warn(msg, ...) diag(DIAG_WARN, msg, __VA_ARGS__)
#define diag_error(msg, ...) diag(DIAG_ERROR, msg, __VA_ARGS__)

struct diag_limit {
    uint64_t next_us; /* atomic */
    uint64_t left_out; /* atomic */
};
/* True when a line may be written now; *ret_left_out lines were suppressed since the last. */
bool diag_limit_pass(struct diag_limit *limit, uint64_t *ret_left_out);

/* At most one line a second from this place. */
#define DIAG_EVERY(level, msg, fmt, ...)                                                                     \
    do {                                                                                                     \
        static struct diag_limit limit_;                                                                     \
        uint64_t left_out_;                                                                                  \
        if (diag_limit_pass(&limit_, &left_out_))                                                            \
            diag(level, msg, fmt " left_out=%llu" __VA_OPT__(, ) __VA_ARGS__,                                \
                 (unsigned long long)left_out_);                                                             \
    } while (0)

#endif
