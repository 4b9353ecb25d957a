// node-redis' cluster client (see run). Of itself it asks for the map again only when it is told MOVED, and what it sends to a dead node waits for that node to come back, so the program
// lets such commands fail and makes a new client then.
const { createCluster } = require('redis')
const { addresses, name, lanes, error, run } = require('./steady.js')

let r = null
const key = n => `{${lanes[n % lanes.length]}}:${name}:${n}`

async function ask (command) {
  try {
    if (r === null) {
      r = createCluster({ rootNodes: addresses.map(socket => ({ socket })), defaults: { disableOfflineQueue: true } })
      r.on('error', error)
      await r.connect()
    }
    return await command(r)
  } catch (e) {
    const old = r
    r = null
    try { old.destroy() } catch (e) {} // it may not have been open
    throw e
  }
}

run(n => ask(c => c.set(key(n), String(n))), async (count, found) => {
  for (let n = 0; n < count; n++) if (await ask(c => c.get(key(n))) === String(n)) found(n)
})
