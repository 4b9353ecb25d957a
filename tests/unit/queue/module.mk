check_PROGRAMS += unit-queue
TESTS += unit-queue
unit_queue_SOURCES = %D%/ackmap_test.c %D%/heap_test.c %D%/message_test.c
unit_queue_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_queue_LDADD = libqueue.a liblog.a libio.a libbase.a $(CRITERION_LIBS) $(LOG_LIBS) $(IO_LIBS) $(JEMALLOC_LIBS)
