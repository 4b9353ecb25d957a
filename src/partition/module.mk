noinst_LIBRARIES += libpartition.a
libpartition_a_SOURCES = %D%/partition.h %D%/queues.c %D%/queues.h
