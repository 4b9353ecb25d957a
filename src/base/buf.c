#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

const uint8_t reader_nothing[1] = {0};

void buf_grow(struct buf *b, size_t room)
{
    size_t cap = b->cap < 64 ? 64 : b->cap;

    CHECK(room <= SIZE_MAX / 4 && b->len <= SIZE_MAX / 4);
    while (cap - b->len < room)
        cap *= 2;
    b->data = mem_realloc(b->data, cap);
    b->cap = cap;
}

void buf_fini(struct buf *b)
{
    mem_free(b->data);
    *b = (struct buf){0};
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf((char *)buf_reserve(b, 128), 128, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    if (n >= 128) {
        buf_reserve(b, (size_t)n + 1);
        va_start(ap, fmt);
        vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
        va_end(ap);
    }
    b->len += (size_t)n;
}

void buf_consume(struct buf *b, size_t n)
{
    CHECK(n <= b->len);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}
