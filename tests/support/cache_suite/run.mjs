// Run cases of the suite against a cache in front of its server, and print their results as JSON.
//
// node run.mjs URL AT_ONCE [ID...]: AT_ONCE cases at the same time; without IDs, all that are required or optimal,
// and those that they depend on.
import { runTests, getResults } from './upstream/test-engine/client/runner.mjs'
import suites from './upstream/tests/index.mjs'

const [url, atOnce, ...ids] = process.argv.slice(2)
const known = new Map()
for (const suite of suites) {
  for (const test of suite.tests) {
    if (test.browser_only !== true) known.set(test.id, test)
  }
}
const wanted = new Set(ids)
function want (id) {
  wanted.add(id)
  for (const each of known.get(id)?.depends_on ?? []) want(each)
}
if (ids.length === 0) {
  for (const [id, test] of known) if ((test.kind ?? 'required') !== 'check') want(id)
}
const tests = [...known.values()].filter(test => wanted.has(test.id))
console.error = () => {}
const lines = []
const log = console.log
console.log = line => lines.push(line)
await runTests([{ tests }], false, url, Number(atOnce))
console.log = log
const results = getResults()
console.log(JSON.stringify(tests.map(test => ({
  id: test.id,
  kind: test.kind ?? 'required',
  depends_on: test.depends_on ?? [],
  failure: results[test.id] === true ? null : results[test.id].join(': ')
}))))
process.exit(0)
