check_PROGRAMS += unit-base
TESTS += unit-base
unit_base_SOURCES = %D%/bytes_test.c %D%/futex_lock_test.c %D%/hash_test.c %D%/slice_test.c %D%/fileio_test.c %D%/mem_test.c
unit_base_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_base_LDADD = libbase.a $(CRITERION_LIBS) $(JEMALLOC_LIBS)
