module amqp_failover

go 1.16

require github.com/rabbitmq/amqp091-go v1.9.0
