check_PROGRAMS += unit-log
TESTS += unit-log
unit_log_SOURCES = %D%/batch_test.c %D%/log_test.c %D%/recover_test.c %D%/replica_test.c %D%/scrub_test.c %D%/cost_test.c %D%/level_test.c %D%/rig.c %D%/rig.h \
	%D%/fake_workers.c %D%/fake_workers.h
unit_log_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/%D%
unit_log_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_log_LDADD = liblog.a libbase.a $(CRITERION_LIBS) $(LOG_LIBS) $(JEMALLOC_LIBS)

check_PROGRAMS += stress-log
TESTS += stress-log
stress_log_SOURCES = %D%/stress.c %D%/fake_workers.c %D%/fake_workers.h
stress_log_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/%D%
stress_log_LDADD = liblog.a libbase.a $(LOG_LIBS) $(JEMALLOC_LIBS)
