/* Every ERR_* has a code of the protocol, and only the ones meant to be are the catch-all. */
#include <criterion/criterion.h>

#include "base/err.h"
#include "protocols/kafka/api.h"

Test(errors, every_error_of_ours_has_a_code)
{
    static const int unknown[] = {ERR_NOMEM, ERR_IN_USE, ERR_ADDR_IN_USE, ERR_WRONG_TYPE};

    cr_assert_eq(kafka_error_of(0), KAFKA_ERR_NONE);
    for (int err = ERR__FIRST + 1; err < ERR__END; err++) {
        int16_t code = kafka_error_of(err);
        bool may_be_unknown = false;

        cr_assert_neq(code, KAFKA_ERR_NONE, "%s is told as success", err_name(err));
        for (unsigned i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
            may_be_unknown = may_be_unknown || unknown[i] == err;
        cr_assert_eq(code == KAFKA_ERR_UNKNOWN_SERVER_ERROR, may_be_unknown, "%s becomes %s", err_name(err),
                     kafka_error_name(code));
        cr_assert(code == KAFKA_ERR_UNKNOWN_SERVER_ERROR ||
                  strcmp(kafka_error_name(code), "UNKNOWN_SERVER_ERROR") != 0);
    }
}

Test(errors, a_full_disk_is_retriable_for_producers)
{
    cr_assert_eq(kafka_error_of(ERR_NOSPACE), KAFKA_ERR_KAFKA_STORAGE_ERROR);
    cr_assert_str_eq(kafka_error_name(56), "KAFKA_STORAGE_ERROR");
}

Test(errors, codes_have_names_and_texts)
{
#define X(NAME, code, text)                                                                                  \
    cr_assert_str_eq(kafka_error_name(code), #NAME);                                                         \
    cr_assert_gt(strlen(kafka_error_text(code)), 5);                                                         \
    cr_assert_str_eq(kafka_error_names[kafka_error_row(code)], #NAME);
#include "protocols/kafka/errors.def"
#undef X
}
