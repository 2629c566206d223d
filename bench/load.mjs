// Sends the requests that its input describes, from a process of its own, and prints what came
// back. An answer that is not as expected counts as a mismatch.
import { readFileSync } from 'node:fs'
import autocannon from 'autocannon'

const {
  url,
  method = 'GET',
  headers,
  body,
  seconds,
  amount,
  connections,
  status,
  expected,
  requests: given
} = JSON.parse(readFileSync(0, 'utf8'))

let taken = 0
let unexpected = 0
let begun = Date.now()

/** Each connection has requests of its own, so that none is sent again before the others were. */
function takeShare(client) {
  const share = given.slice(taken, taken + Math.floor(given.length / connections))
  taken += share.length
  client.setRequests(
    share.map(({ includes, ...request }) => ({
      ...request,
      onResponse(_status, text) {
        if (!text.includes(includes)) unexpected++
      }
    }))
  )
  begun = Date.now()
}

const result = await autocannon({
  url,
  method,
  headers,
  body,
  connections,
  ...(amount ? { amount } : { duration: seconds }),
  ...(given ? { setupClient: takeShare } : {}),
  ...(expected === undefined ? {} : { verifyBody: (text) => String(text) === expected })
})
const right = result.statusCodeStats[status]?.count ?? 0
const { errors, timeouts, mismatches, latency, requests } = result
process.stdout.write(
  JSON.stringify({
    answers: requests.total,
    right,
    failures: errors + timeouts + mismatches + unexpected + (requests.total - right),
    rate: requests.total / ((result.finish - begun) / 1000),
    p50: latency.p50,
    p99: latency.p99
  })
)
