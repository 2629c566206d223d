import { endAtOnce } from './end-at-once.js'

// Before the other modules are loaded, which takes most of the time that a start takes.
endAtOnce()
await import('./serve.js')
