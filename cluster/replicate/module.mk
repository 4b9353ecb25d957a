noinst_LIBRARIES += libreplicate.a
libreplicate_a_SOURCES = \
	%D%/codec.c %D%/codec.h %D%/ends.c %D%/follower.c %D%/handover.c %D%/insync.c %D%/install.c %D%/logs.c %D%/private.h %D%/pull.c %D%/record.c %D%/replicate.c \
	%D%/replicate.h %D%/repair.c %D%/session.c %D%/ship.c %D%/steps.c %D%/wait.c %D%/watermark.c %D%/work.c
