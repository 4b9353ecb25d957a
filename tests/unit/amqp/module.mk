# tests/unit/amqp
