check_PROGRAMS += unit-queue
TESTS += unit-queue
unit_queue_SOURCES = %D%/ackmap_test.c %D%/cold_test.c %D%/commit_test.c %D%/consumers_test.c %D%/fixture.c %D%/fixture.h %D%/follow_test.c %D%/forward_test.c %D%/heap_test.c %D%/message_test.c \
	%D%/model_test.c %D%/opening_test.c %D%/queue_test.c %D%/replica_test.c %D%/restart_test.c
unit_queue_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/%D%
unit_queue_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_queue_LDADD = libqueue.a liblog.a libio.a libbase.a $(CRITERION_LIBS) $(LOG_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread
