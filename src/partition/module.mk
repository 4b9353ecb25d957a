noinst_LIBRARIES += libpartition.a
libpartition_a_SOURCES = \
	%D%/apply.c %D%/exchange.c %D%/lock.c %D%/maintenance.c %D%/partition.c %D%/partition.h %D%/placement.c %D%/private.h \
	%D%/queues.c %D%/queues.h %D%/recover.c %D%/replay.c %D%/replay.h %D%/role.c %D%/set.c %D%/snapshots.c
