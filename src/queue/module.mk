noinst_LIBRARIES += libqueue.a
libqueue_a_SOURCES = \
	%D%/ackmap.c %D%/ackmap.h %D%/checkpoint.c %D%/consumer.c %D%/follow.c %D%/forward.c %D%/heap.c %D%/heap.h %D%/internal.h \
	%D%/message.c %D%/message.h %D%/open.c %D%/pending.c %D%/publish.c %D%/queue.h %D%/reader.c %D%/ready.c \
	%D%/recover.c %D%/settle.c %D%/table.c %D%/take.c
