"""pika's blocking connection (see run). It does not reconnect: the program goes to the next address."""
import itertools

import pika
import steady

order = itertools.cycle(steady.addresses)
connection = channel = None


def open_channel():
    global connection, channel
    if channel is None:
        host, port = next(order)
        connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
        channel = connection.channel()
        channel.confirm_delivery()
        for queue in steady.lanes:
            channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    return channel


def give_up():
    global connection, channel
    try:
        if connection is not None:
            connection.close()
    except Exception:
        pass
    connection = channel = None


def write(n):
    try:
        open_channel().basic_publish("", steady.lanes[n % len(steady.lanes)], b"%d" % n, pika.BasicProperties(delivery_mode=2), mandatory=True)
    except Exception:
        give_up()
        raise


def read(_):
    try:
        for queue in steady.lanes:
            while True:
                method, _, body = open_channel().basic_get(queue, auto_ack=False)
                if method is None:
                    break
                yield int(body)
                channel.basic_ack(method.delivery_tag)
    except Exception:
        give_up()
        raise


steady.run(write, read)
