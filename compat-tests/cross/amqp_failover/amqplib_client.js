// amqplib (see run). It does not reconnect: the program goes to the next address.
const amqp = require('amqplib')
const { addresses, lanes, error, run } = require('./steady.js')

let next = 0
let channel = null

async function open () {
  if (channel) return channel
  const { host, port } = addresses[next++ % addresses.length]
  const connection = await amqp.connect(`amqp://guest:guest@${host}:${port}`, { noDelay: true }) // else each get waits 40 ms for TCP's acknowledgement of the ack before it
  connection.on('error', error)
  const made = await connection.createConfirmChannel()
  made.on('error', error)
  // Confirms that do not come any more are to fail the publishes that wait for them.
  made.broken = new Promise((resolve, reject) => connection.on('close', () => {
    if (channel === made) channel = null
    reject(new Error('closed'))
  }))
  made.broken.catch(() => {})
  for (const queue of lanes) await made.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
  channel = made
  return channel
}

async function write (n) {
  const ch = await open()
  await Promise.race([ch.broken, new Promise((resolve, reject) =>
    ch.sendToQueue(lanes[n % lanes.length], Buffer.from(String(n)), { persistent: true, mandatory: true }, e => e ? reject(e) : resolve()))])
}

run(write, async (count, found) => {
  for (const queue of lanes) {
    for (let m; (m = await (await open()).get(queue, { noAck: false }));) {
      found(m.content.toString())
      channel.ack(m)
    }
  }
})
