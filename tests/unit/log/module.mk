check_PROGRAMS += unit-log
TESTS += unit-log
unit_log_SOURCES = %D%/batch_test.c
unit_log_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_log_LDADD = liblog.a libbase.a $(CRITERION_LIBS) $(LOG_LIBS) $(JEMALLOC_LIBS)
