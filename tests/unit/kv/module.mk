check_PROGRAMS += unit-kv
TESTS += unit-kv
unit_kv_SOURCES = %D%/fixture.c %D%/fixture.h %D%/kv_test.c %D%/model.c %D%/model.h %D%/snapshot_test.c %D%/table_test.c
unit_kv_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests/unit/kv
unit_kv_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_kv_LDADD = libkv.a liblog.a libbase.a $(LOG_LIBS) $(CRITERION_LIBS) $(JEMALLOC_LIBS)
