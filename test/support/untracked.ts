import root from 'tap'

/**
 * tap follows every promise of a process, to know whose an error is that nobody catches. Where tests send many
 * requests that is a seventh of their time: those that import this go without. Such an error ends the process
 * then, which fails the file.
 */
root.hook.onDestroy?.()
root.hookDomain.destroy()
root.beforeEach((t) => t.hookDomain.destroy())
