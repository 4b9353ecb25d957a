noinst_LIBRARIES += libresp.a
libresp_a_SOURCES = \
	%D%/error.c %D%/errors.def %D%/reply.c %D%/reply.h \
	%D%/request.c %D%/request.h %D%/request_parser.h %D%/request_slow.c
libresp_a_CFLAGS = $(AM_CFLAGS) $(HIREDIS_CFLAGS)
