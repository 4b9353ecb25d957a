/* Walking a segment file offline, for `gomsgctl log dump`. Needs no store and changes nothing. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "log/private.h"

#define PLAIN_MAX (256u << 20)

static const char *check_records(const struct batch_header *h, struct slice records)
{
    struct record_iter it;
    struct record r;
    int rc;

    record_iter_init(&it, h, records);
    while ((rc = record_iter_next(&it, &r)) == 1)
        ;
    return rc < 0 || reader_left(&it.r) != 0 ? "its records do not parse" : NULL;
}

int log_file_walk(const char *path, bool verify, int (*fn)(void *arg, const struct log_walk_batch *b), void *arg)
{
    struct buf whole = {0}, plain = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    struct stat st;
    uint64_t pos = 0, size;
    int64_t next = -1;
    int32_t epoch = INT32_MIN;
    bool defects = false;

    if (fd < 0)
        return err_from_errno(errno);
    if (fstat(fd, &st) < 0) {
        rc = err_from_errno(errno);
        goto done;
    }
    size = (uint64_t)st.st_size;
    while (pos < size && rc == 0) {
        static const uint8_t zeros[BATCH_HEADER_SIZE];
        struct log_walk_batch b = {.pos = pos};
        size_t head = (size_t)MIN_OF((uint64_t)BATCH_HEADER_SIZE, size - pos);
        unsigned codec;

        buf_clear(&whole);
        rc = file_pread_all(fd, buf_reserve(&whole, BATCH_HEADER_SIZE), head, pos);
        if (rc != 0)
            break;
        if (memcmp(whole.data, zeros, head) == 0)
            break;
        rc = batch_header_read(whole.data, head, &b.header);
        if (rc != 0 || b.header.length > size - pos) {
            b.defect = rc == ERR_MORE ? "the file ends within a header" : rc != 0 ? "this is no batch" : "the file ends within the batch";
            defects = true;
            rc = fn(arg, &b);
            break;
        }
        rc = file_pread_all(fd, buf_reserve(&whole, b.header.length), b.header.length, pos);
        if (rc != 0)
            break;
        if (verify && !batch_crc_ok(whole.data, &b.header))
            b.defect = "its CRC does not match";
        else if (next >= 0 && b.header.base_offset < next)
            b.defect = "its offset goes back";
        else if (next >= 0 && b.header.base_offset > next)
            b.defect = "offsets are missing in front of it";
        else if (b.header.leader_epoch < epoch)
            b.defect = "its epoch goes back";
        codec = b.header.attributes & BATCH_ATTR_CODEC;
        buf_clear(&plain);
        if (batch_decompress((enum batch_codec)codec, slice_of(whole.data + BATCH_HEADER_SIZE, b.header.length - BATCH_HEADER_SIZE), PLAIN_MAX,
                             &plain) == 0) {
            b.records = buf_slice(&plain);
            if (b.records.data == NULL)
                b.records.data = whole.data;
            if (verify && b.defect == NULL)
                b.defect = check_records(&b.header, b.records);
        } else if (b.defect == NULL) {
            b.defect = "it cannot be decompressed";
        }
        next = b.header.base_offset + b.header.last_offset_delta + 1;
        epoch = b.header.leader_epoch;
        defects = defects || b.defect != NULL;
        rc = fn(arg, &b);
        pos += b.header.length;
    }
done:
    close(fd);
    buf_fini(&whole);
    buf_fini(&plain);
    return rc != 0 ? rc : defects ? ERR_CORRUPT : 0;
}
