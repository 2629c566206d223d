// Sends the requests that the first argument describes, from a process of its own, and prints
// what came back. An answer that is not as expected counts as a mismatch.
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
  expected
} = JSON.parse(process.argv[2])

const result = await autocannon({
  url,
  method,
  headers,
  body,
  connections,
  ...(amount ? { amount } : { duration: seconds }),
  ...(expected === undefined ? {} : { verifyBody: (text) => String(text) === expected })
})
const right = result.statusCodeStats[status]?.count ?? 0
const { errors, timeouts, mismatches, latency, requests } = result
process.stdout.write(
  JSON.stringify({
    answers: requests.total,
    right,
    failures: errors + timeouts + mismatches + (requests.total - right),
    rate: requests.total / result.duration,
    p50: latency.p50,
    p99: latency.p99
  })
)
