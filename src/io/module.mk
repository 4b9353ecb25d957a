noinst_LIBRARIES += libio.a
libio_a_SOURCES = \
	%D%/bg.c %D%/conn.c %D%/conn.h %D%/connect.c %D%/connect.h %D%/internal.h %D%/listener.c %D%/listener.h %D%/output.c \
	%D%/worker.c %D%/worker.h
