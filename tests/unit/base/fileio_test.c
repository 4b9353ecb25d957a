#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"

Test(fileio, a_replaced_file_is_whole_and_a_tree_goes_away)
{
    char dir[] = "/tmp/gomsg-unit-XXXXXX";
    char *deep, *path;
    struct buf b = {0};

    cr_assert_not_null(mkdtemp(dir));
    deep = mem_printf("%s/a/b/c", dir);
    path = mem_printf("%s/file", deep);
    cr_assert_eq(file_make_dirs(deep), 0);
    cr_assert_eq(file_make_dirs(deep), 0);
    cr_assert_eq(file_replace(path, "one", 3), 0);
    cr_assert_eq(file_replace(path, "second", 6), 0);
    cr_assert_eq(file_read(path, 100, &b), 0);
    cr_assert_eq(b.len, 6);
    buf_clear(&b);
    cr_assert_eq(file_read(path, 2, &b), ERR_TOO_LARGE);
    cr_assert_eq(file_remove_tree(dir), 0);
    cr_assert_neq(access(dir, F_OK), 0);
    cr_assert_eq(file_read(path, 10, &b), ERR_NOT_FOUND);
    buf_fini(&b);
    mem_free(deep);
    mem_free(path);
}
