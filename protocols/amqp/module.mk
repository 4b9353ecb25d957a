# protocols/amqp
