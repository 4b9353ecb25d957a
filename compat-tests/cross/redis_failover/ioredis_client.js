// ioredis' cluster client (see run).
const { Cluster } = require('ioredis')
const { addresses, name, lanes, error, run } = require('./steady.js')

const r = new Cluster(addresses)
r.on('error', error)
const key = n => `{${lanes[n % lanes.length]}}:${name}:${n}`

run(n => r.set(key(n), n), async (count, found) => {
  for (let n = 0; n < count; n++) if (await r.get(key(n)) === String(n)) found(n)
})
