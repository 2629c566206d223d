import { setImmediate as nextTurn } from 'node:timers/promises'

/** How the members of a group are stored. */
export interface GroupStore<Member, Stored> {
  /**
   * All of them at once: what each stored, in their order. Null where nothing was stored and each
   * must be tried alone; a rejection is everybody's. It does not wait for long, since others wait for
   * it: a member that has to wait longer is tried alone.
   */
  together(members: readonly Member[]): Promise<readonly Stored[] | null>
  /** Waits for as long as it takes. */
  alone(member: Member): Promise<Stored>
  /** What a member adds to the size of its group. */
  sizeOf(member: Member): number
  /** What a member is told that waited too long for a turn. Nothing was done for them. */
  waitedTooLong(): Error
}

export interface GroupLimits {
  /** Groups under way at a time, two at least: one may be a single member that waits for long. */
  readonly groups: number
  readonly members: number
  /** Of all members together, unless one alone is larger. */
  readonly size: number
  /** How long a member waits for a turn while enough groups are under way. Milliseconds. */
  readonly waitMs: number
}

interface Waiting<Member, Stored> {
  readonly member: Member
  readonly resolve: (stored: Stored | Promise<Stored>) => void
  readonly reject: (error: unknown) => void
  readonly timer: NodeJS.Timeout
}

/**
 * Lets members that come at about the same time share what it costs to store them. One that comes
 * while nothing is under way waits for a turn of the event loop, and is stored alone where no other
 * joins; one that comes while enough groups are under way waits for one of them to end.
 */
export function createGroups<Member, Stored>(
  store: GroupStore<Member, Stored>,
  limits: GroupLimits
): (member: Member) => Promise<Stored> {
  const queue: Waiting<Member, Stored>[] = []
  let underWay = 0

  async function storeGroups(): Promise<void> {
    underWay++
    await nextTurn()
    while (queue.length > 0) await storeGroup(takeGroup())
    underWay--
  }

  function takeGroup(): Waiting<Member, Stored>[] {
    let count = 0
    let size = 0
    for (const { member } of queue) {
      size += store.sizeOf(member)
      if (count === limits.members || (count > 0 && size > limits.size)) break
      count++
    }
    const group = queue.splice(0, count)
    for (const { timer } of group) clearTimeout(timer)
    return group
  }

  async function storeGroup(group: readonly Waiting<Member, Stored>[]): Promise<void> {
    try {
      const stored = await storeMembers(group.map(({ member }) => member))
      for (const [index, { member, resolve }] of group.entries())
        resolve(stored ? (stored[index] as Stored) : store.alone(member))
    } catch (error) {
      for (const { reject } of group) reject(error)
    }
  }

  function storeMembers(members: readonly Member[]): Promise<readonly Stored[] | null> {
    const [first] = members as [Member]
    if (members.length > 1 || underWay > 1) return store.together(members)
    return store.alone(first).then((stored) => [stored])
  }

  return (member) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        queue.splice(queue.indexOf(waiting), 1)
        reject(store.waitedTooLong())
      }, limits.waitMs)
      const waiting = { member, resolve, reject, timer }
      queue.push(waiting)
      if (underWay < limits.groups) storeGroups()
    })
}
