/* Record batches as a producer may send them: whatever is accepted must iterate to its end, and no codec may give more than it is allowed. */
#include <stdint.h>

#include "base/check.h"
#include "base/err.h"
#include "log/batch.h"

#define PLAIN_MAX (256u * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void iterate(const struct batch_header *h, struct slice records)
{
    struct record_iter it;
    struct record r;
    int rc;
    int32_t n = 0;

    record_iter_init(&it, h, records);
    while ((rc = record_iter_next(&it, &r)) == 1)
        n++;
    CHECK(n <= h->record_count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct batch_header h;
    struct buf plain = {0};

    for (int codec = BATCH_NONE; codec <= BATCH_ZSTD; codec++) {
        buf_clear(&plain);
        if (batch_decompress((enum batch_codec)codec, slice_of(data, size), PLAIN_MAX, &plain) == 0)
            CHECK(plain.len <= PLAIN_MAX);
    }
    if (batch_validate(data, size, PLAIN_MAX, &h) == 0) {
        buf_clear(&plain);
        CHECK(batch_decompress((enum batch_codec)(h.attributes & BATCH_ATTR_CODEC),
                               slice_of(data + BATCH_HEADER_SIZE, h.length - BATCH_HEADER_SIZE), PLAIN_MAX, &plain) == 0);
        iterate(&h, buf_slice(&plain));
    }
    if (batch_header_read(data, size, &h) == 0 && h.length <= size)
        iterate(&h, slice_of(data + BATCH_HEADER_SIZE, h.length - BATCH_HEADER_SIZE)); /* as recovery would, had the CRC matched */
    buf_fini(&plain);
    return 0;
}
