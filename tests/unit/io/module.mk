check_PROGRAMS += unit-io
TESTS += unit-io
unit_io_SOURCES = %D%/harness.h %D%/harness.c %D%/worker_test.c %D%/conn_test.c %D%/listener_test.c
unit_io_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_io_LDADD = libio.a libbase.a $(CRITERION_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread

check_PROGRAMS += stress-io
TESTS += stress-io
stress_io_SOURCES = %D%/stress.c
stress_io_LDADD = libio.a libbase.a $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread
