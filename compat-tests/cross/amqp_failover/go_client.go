// amqp091-go (see run). It does not reconnect: the program goes to the next address.
package main

import (
	"context"
	"errors"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

var (
	next    int
	channel *amqp.Channel
	confirm chan amqp.Confirmation
)

func open() error {
	if channel != nil && !channel.IsClosed() {
		return nil
	}
	channel = nil
	c, err := amqp.Dial("amqp://guest:guest@" + addresses[next%len(addresses)])
	next++
	if err != nil {
		return err
	}
	ch, err := c.Channel()
	if err != nil {
		return err
	}
	if err = ch.Confirm(false); err != nil {
		return err
	}
	for _, queue := range lanes {
		if _, err = ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
			c.Close()
			return err
		}
	}
	confirm = ch.NotifyPublish(make(chan amqp.Confirmation, 1))
	channel = ch
	return nil
}

func write(n int) error {
	if err := open(); err != nil {
		return err
	}
	m := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(strconv.Itoa(n))}
	if err := channel.PublishWithContext(context.Background(), "", lanes[n%len(lanes)], true, false, m); err != nil {
		return err
	}
	if c, ok := <-confirm; !ok {
		return errors.New("closed before the confirm")
	} else if !c.Ack {
		return errors.New("nack")
	}
	return nil
}

func read(_ int, found func(int)) error {
	for _, queue := range lanes {
		for {
			if err := open(); err != nil {
				return err
			}
			m, ok, err := channel.Get(queue, false)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			n, _ := strconv.Atoi(string(m.Body))
			found(n)
			if err := m.Ack(false); err != nil {
				return err
			}
		}
	}
	return nil
}

func main() {
	steady(write, read)
}
