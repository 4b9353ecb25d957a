// What every client of a trial that runs on Node does (trial.py beside it says what a client is).
let over = false
process.stdin.on('end', () => { over = true }).resume()

const [list, name, lanes] = process.argv.slice(2)
const addresses = list.split(',').map(a => ({ host: a.slice(0, a.lastIndexOf(':')), port: Number(a.slice(a.lastIndexOf(':') + 1)) }))
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))
const say = (word, text) => process.stdout.write(`${word} ${String(text).replace(/\n/g, ' ')}\n`)
const error = e => say('error', `${e.name}: ${e.message}`)

// write(n) is done when n is acknowledged; read(count, found) calls found with each number below count that it finds.
async function run (write, read) {
  let n = 0
  for (; !over; n++) {
    try {
      await write(n)
      say('acked', n)
    } catch (e) {
      error(e)
      await pause(10)
    }
    await pause(1)
  }
  for (let tries = 0; tries < 5; tries++) {
    try {
      await read(n, found => say('read', found))
      process.exit(0)
    } catch (e) {
      error(e)
      await pause(1000)
    }
  }
  process.exit(1)
}

module.exports = { addresses, name, lanes: lanes.split(','), isOver: () => over, pause, say, error, run }
