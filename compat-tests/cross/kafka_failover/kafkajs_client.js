// kafkajs (see run).
const { Kafka, logLevel, Partitioners } = require('kafkajs')
const { addresses, name, isOver, pause, say, error } = require('./steady.js')

const brokers = addresses.map(a => `${a.host}:${a.port}`)
const kafka = new Kafka({ clientId: 'failover', brokers, logLevel: logLevel.NOTHING, retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 30 } })
const acked = new Set()
const read = new Set()

async function main () {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, createPartitioner: Partitioners.DefaultPartitioner })
  const consumer = kafka.consumer({ groupId: 'g-' + name, sessionTimeout: 10000 })
  await producer.connect()
  for (let i = 0; !isOver(); i += 20) {
    const messages = []
    // To one partition at a time: a send to several loses what its retry finds at a broker that has answered for other partitions already (kafkajs issue 1303).
    for (let k = i; k < i + 20; k++) messages.push({ value: String(k), partition: (i / 20) % 4 })
    try {
      await producer.send({ topic: name, acks: -1, messages })
      for (const { value } of messages) {
        acked.add(value)
        say('acked', value)
      }
    } catch (e) {
      error(e)
    }
    if (i === 0) {
      await consumer.connect()
      await consumer.subscribe({ topics: [name], fromBeginning: true })
      await consumer.run({
        eachMessage: async ({ partition, message }) => {
          read.add(message.value.toString())
          say('read', `${message.value} ${partition}:${message.offset}`)
        }
      })
    }
    await pause(15)
  }
  while ([...acked].some(n => !read.has(n))) await pause(100)
  await Promise.race([Promise.all([producer.disconnect(), consumer.disconnect()]), pause(10000)])
  process.exit(0)
}

main().catch(e => {
  error(e)
  process.exit(2)
})
