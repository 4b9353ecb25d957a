// kafkajs. BOOTSTRAP TOPIC COUNT; see run.
const { Kafka, logLevel, Partitioners } = require('kafkajs')

const [boot, topic, n] = process.argv.slice(2)
const count = Number(n)
const kafka = new Kafka({ clientId: 'failover', brokers: boot.split(','), logLevel: logLevel.NOTHING, retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 30 } })
const got = new Set()
const failed = []
let acked = 0
let repeated = 0

const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

async function main() {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, createPartitioner: Partitioners.DefaultPartitioner })
  const consumer = kafka.consumer({ groupId: 'g-' + topic, sessionTimeout: 10000 })
  await producer.connect()
  for (let i = 0; i < count; i += 20) {
    const messages = []
    // To one partition at a time: a send to several loses what its retry finds at a broker that has answered for other partitions already (kafkajs issue 1303).
    for (let k = i; k < Math.min(i + 20, count); k++) messages.push({ value: String(k), partition: (i / 20) % 4 })
    try {
      await producer.send({ topic, acks: -1, messages })
      acked += messages.length
    } catch (e) {
      failed.push(e.message)
    }
    if (i === 0) {
      await consumer.connect()
      await consumer.subscribe({ topics: [topic], fromBeginning: true })
      await consumer.run({
        eachMessage: async ({ message }) => {
          const value = message.value.toString()
          repeated += got.has(value)
          got.add(value)
        },
      })
    }
    if (acked % 1000 === 0) console.log('acked ' + acked)
    await pause(15)
  }
  for (const end = Date.now() + 90000; got.size < count && Date.now() < end;) await pause(100)
  console.log(`acked=${acked} failed=${failed.slice(0, 2)} read=${got.size} repeated=${repeated}`)
  await Promise.race([Promise.all([producer.disconnect(), consumer.disconnect()]), pause(10000)])
  process.exit(acked === count && got.size === count && failed.length === 0 ? 0 : 1)
}

main().catch(e => {
  console.error(e)
  process.exit(2)
})
