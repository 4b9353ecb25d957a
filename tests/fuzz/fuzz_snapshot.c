/* The snapshot reader: no file may crash it. The first byte chooses: even, the rest is a whole file; odd, the rest is the payload of one block,
 * wrapped so that every checksum holds and the effects themselves are reached. */
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/fileio.h"
#include "kv/snapshot.h"
#include "kv/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t cluster[16];

static void wrap(struct slice payload, struct buf *out)
{
    uint32_t crc, all = 0;
    size_t footer;
    uint8_t *p;

    buf_put(out, SNAPSHOT_MAGIC, 8);
    buf_put(out, cluster, sizeof(cluster));
    buf_put_be32(out, 0);
    buf_put_be32(out, 1);
    buf_put_be64(out, 0);
    buf_put_be64(out, 0);
    buf_put_be32(out, 0);
    buf_put_be32(out, crc32c(0, out->data, out->len));
    CHECK(out->len == SNAPSHOT_HEADER);
    if (payload.len != 0) {
        buf_put_be32(out, (uint32_t)payload.len);
        crc = crc32c(crc32c(0, out->data + out->len - 4, 4), payload.data, payload.len);
        buf_put_be32(out, crc);
        all = crc32c(0, out->data + out->len - 4, 4);
        buf_put_slice(out, payload);
    }
    footer = out->len;
    buf_put_be32(out, SNAPSHOT_END);
    buf_put_be64(out, 0);
    buf_put_be64(out, 0);
    buf_put_be64(out, payload.len != 0);
    buf_put_be32(out, all);
    p = out->data + footer;
    buf_put_be32(out, crc32c(0, p, out->len - footer));
    CHECK(out->len - footer == SNAPSHOT_FOOTER);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf file = {0};
    struct kv *kv = kv_new(NULL);
    int fd = memfd_create("snapshot", MFD_CLOEXEC), err;
    bool wrapped = size > 0 && (data[0] & 1);

    CHECK(fd >= 0);
    if (wrapped)
        wrap(slice_of(data + 1, size - 1), &file);
    else if (size > 0)
        buf_put(&file, data + 1, size - 1);
    CHECK(file_pwrite_all(fd, file.data, file.len, 0) == 0);
    err = kv_snapshot_read(kv, fd, cluster, KV_SNAPSHOT_ANY, 0);
    /* Whatever was taken can be walked and counted. */
    kv_state_hash(kv);
    CHECK(!wrapped || size > 1 || err == 0);
    for (int i = 0; i < KV_DB_COUNT; i++)
        CHECK(table_is_sound(&kv->dbs[i].keys) && table_is_sound(&kv->dbs[i].expires));
    kv_free(kv);
    close(fd);
    buf_fini(&file);
    return 0;
}
