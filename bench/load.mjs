// Sends the requests that each message describes, from a process of its own, and answers what came
// back. An answer that is not as expected counts as a failure.
import autocannon from 'autocannon'

process.on('message', async (load) => process.send({ answer: await send(load) }))
process.on('disconnect', () => process.exit())

async function send(load) {
  const { url, method = 'GET', headers, body, seconds, amount, connections } = load
  const { status, expected, requests: given } = load
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
    // A load ends with a sample, in milliseconds.
    sampleInt: 100,
    ...(amount ? { amount } : { duration: seconds }),
    ...(given ? { setupClient: takeShare } : {}),
    ...(expected === undefined ? {} : { verifyBody: (text) => String(text) === expected })
  })
  const right = result.statusCodeStats[status]?.count ?? 0
  const { errors, timeouts, mismatches, latency, requests } = result
  return {
    answers: requests.total,
    right,
    failures: errors + timeouts + mismatches + unexpected + (requests.total - right),
    rate: requests.total / ((result.finish - begun) / 1000),
    p50: latency.p50,
    p99: latency.p99
  }
}
