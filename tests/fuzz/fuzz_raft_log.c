/* The files of a Raft log as a damaged disk may give them back: opening either fails or gives entries that a second opening gives again. The input's first byte says which file the
 * rest is: 0 the log, 1 a snapshot, 2 the vote. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/diag.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/raft/raft_log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void put(const char *name, const void *data, size_t n)
{
    char *path = mem_printf("%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

    CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    close(fd);
    mem_free(path);
}

static void make_dir(void)
{
    strcpy(dir, "/dev/shm/gomsg-fuzz-XXXXXX");
    if (mkdtemp(dir) != NULL)
        return;
    strcpy(dir, "/tmp/gomsg-fuzz-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
}

static bool open_once(struct raft_recovered *ret)
{
    struct raft_log *l;
    struct raft_log_loaded in;
    uint64_t term;

    if (raft_log_load(dir, &l, &in) < 0)
        return false;
    term = in.rec.base_term;
    for (size_t i = 0; i < in.rec.entry_count; i++) {
        CHECK(in.entries[i].term >= term && in.entries[i].kind <= RAFT_ENTRY_CONFIG);
        term = in.entries[i].term;
    }
    CHECK(in.rec.base + in.rec.entry_count == raft_log_last(l) && raft_log_last_term(l) == term);
    CHECK(in.rec.base <= in.rec.snapshot.index && in.rec.snapshot.index <= raft_log_last(l));
    *ret = in.rec;
    raft_log_loaded_fini(&in);
    raft_log_close(l);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"log-0", "snapshot-5", "vote"};
    struct raft_recovered one, two;

    if (size == 0)
        return 0;
    diag_set_level((enum diag_level)(DIAG_ERROR + 1));
    make_dir();
    if (data[0] % 3 != 0) {
        CHECK(open_once(&one)); /* an empty directory gets its files */
    }
    put(names[data[0] % 3], data + 1, size - 1);
    if (open_once(&one)) {
        CHECK(open_once(&two));
        CHECK(one.entry_count == two.entry_count && one.base == two.base && one.term == two.term && one.snapshot.index == two.snapshot.index);
    }
    file_remove_tree(dir);
    return 0;
}
