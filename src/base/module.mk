noinst_LIBRARIES += libbase.a
libbase_a_SOURCES = \
	%D%/address.c %D%/address.h %D%/buf.c %D%/buf.h %D%/bytes.h %D%/check.c %D%/check.h %D%/clock.c %D%/clock.h \
	%D%/crc32c.c %D%/crc32c.h %D%/diag.c %D%/diag.h %D%/err.c %D%/err.def %D%/err.h \
	%D%/fileio.c %D%/fileio.h %D%/futex_lock.c %D%/futex_lock.h %D%/hash.c %D%/hash.h %D%/list.h %D%/mem.c %D%/mem.h %D%/mutex.h \
	%D%/rand.c %D%/rand.h %D%/slice.c %D%/slice.h %D%/thread_annotations.h
