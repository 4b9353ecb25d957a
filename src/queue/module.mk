# src/queue
EXTRA_DIST += %D%/queue.h %D%/message.h
