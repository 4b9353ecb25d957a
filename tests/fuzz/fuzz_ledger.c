/* The ledger's entries: no sequence of them may crash a start; it is read or refused. The frame and its checksum are made here, since no fuzzer guesses a CRC. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/diag.h"
#include "base/fileio.h"
#include "log/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void stop(void)
{
    file_remove_tree(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t zeros[16];
    struct log_store *s;
    struct buf b = {0};
    char path[96];

    if (dir[0] == '\0') {
        diag_set_level(DIAG_ERROR);
        strcpy(dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/gomsg-fuzz-XXXXXX" : "/tmp/gomsg-fuzz-XXXXXX");
        CHECK(mkdtemp(dir) != NULL);
        atexit(stop);
    }
    buf_put_be64(&b, 0);
    buf_put_u8(&b, 1); /* HEAD */
    buf_put_uvarint(&b, 1);
    buf_put(&b, zeros, 16);
    buf_put(&b, zeros, 16);
    buf_put_u8(&b, size > 0 && (data[0] & 1));
    buf_put_uvarint(&b, 1);
    buf_put(&b, data, size);
    be32_put(b.data, (uint32_t)b.len - 8);
    be32_put(b.data + 4, crc32c(0, b.data + 8, b.len - 8));
    snprintf(path, sizeof(path), "%s/ledger", dir);
    CHECK(file_replace(path, b.data, b.len) == 0);
    if (log_store_open(&(struct log_store_options){.data_dir = dir, .fsync = LOG_FSYNC_NEVER}, NULL, &s) == 0)
        log_store_close(s);
    buf_fini(&b);
    return 0;
}
