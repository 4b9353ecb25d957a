/* Failpoints, for tests only: GOMSG_FAILPOINT is a comma list of
 *     append:N:kill     SIGKILL right after the N-th append of the process
 *     mappend:N:kill    the same, counting only batches of commands that span partitions (rule 5)
 *     sync:N:eio        the N-th sync round fails
 *     append:N:enospc   the N-th append finds the disk full */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/mem.h"
#include "log/private.h"

bool failpoint_hit(struct failpoint *fp)
{
    return fp->at != 0 && __atomic_add_fetch(&fp->count, 1, __ATOMIC_RELAXED) == fp->at;
}

void failpoint_parse(struct log_store *s, const char *text)
{
    char *copy, *save = NULL;

    if (text == NULL || text[0] == '\0')
        return;
    copy = mem_strdup(text);
    for (char *word = strtok_r(copy, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save)) {
        char where[16] = "", what[16] = "";
        unsigned long long n = 0;
        struct failpoint *fp = NULL;

        if (sscanf(word, "%15[a-z]:%llu:%15[a-z]", where, &n, what) == 3) {
            if (strcmp(where, "append") == 0 && strcmp(what, "kill") == 0)
                fp = &s->fp_append_kill;
            else if (strcmp(where, "mappend") == 0 && strcmp(what, "kill") == 0)
                fp = &s->fp_mappend_kill;
            else if (strcmp(where, "sync") == 0 && strcmp(what, "eio") == 0)
                fp = &s->fp_sync_eio;
            else if (strcmp(where, "append") == 0 && strcmp(what, "enospc") == 0)
                fp = &s->fp_append_enospc;
        }
        if (fp == NULL || n == 0) {
            diag_warn("unknown failpoint", "failpoint=\"%s\"", word);
            continue;
        }
        fp->at = n;
        s->fp_any = true;
        diag_warn("a failpoint is set", "failpoint=\"%s\"", word);
    }
    mem_free(copy);
}
