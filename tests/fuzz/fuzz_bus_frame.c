/* The bus's parser: what a stranger on the port can make us look at. First byte: the largest frame; then a stream of frames. A frame or hello that is understood must come back the same when written again. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "cluster/bus/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void hello_again(struct slice payload)
{
    struct hello h, back;
    struct buf b = {0};

    if (hello_get(payload, &h) < 0)
        return;
    hello_put(&b, &h);
    CHECK(hello_get(buf_slice(&b), &back) == 0 && memcmp(&h, &back, sizeof(h)) == 0);
    CHECK(h.version > BUS_VERSION || slice_eq(buf_slice(&b), payload));
    CHECK(hello_judge(&h, &back) != REFUSAL_NONE); /* it is itself */
    buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t max, at = 1;

    if (size == 0)
        return 0;
    max = data[0] == 0 ? HELLO_FRAME_MAX : data[0] == 1 ? DATA_FRAME_MAX : CONTROL_FRAME_MAX;
    hello_again(slice_of(data + 1, size - 1));
    while (at < size) {
        struct buf b = {0};
        struct frame f;
        size_t used = 0;
        int err = frame_decode(data + at, size - at, max, &f, &used);

        if (err == ERR_MORE) {
            CHECK(used > size - at && used <= MAX_OF(max, (size_t)FRAME_HEADER));
            break;
        }
        if (err < 0)
            break;
        CHECK(used <= size - at && used == FRAME_HEADER + f.payload.len);
        frame_put(&b, f.type, f.flags, f.id, f.payload);
        CHECK(slice_eq(buf_slice(&b), slice_of(data + at, used)));
        buf_fini(&b);
        hello_again(f.payload);
        (void)refusal_text(f.type);
        at += used;
    }
    return 0;
}
