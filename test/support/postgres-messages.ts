/** A message of a client to Postgres, of one that is connected. */
export interface PostgresMessage {
  /** `B` is a Bind, `S` a Sync: https://www.postgresql.org/docs/current/protocol-message-formats.html */
  readonly type: string
  /** Bytes. */
  readonly length: number
}

export function messagesIn(sent: Buffer): PostgresMessage[] {
  const messages: PostgresMessage[] = []
  for (let at = 0; at < sent.length; ) {
    const length = sent.readInt32BE(at + 1)
    messages.push({ type: String.fromCharCode(sent[at] as number), length })
    at += 1 + length
  }
  return messages
}

/** Messages after which a client waits for the server: Sync, Query and Flush. */
export function countExchanges(sent: Buffer): number {
  return messagesIn(sent).filter(({ type }) => 'SQH'.includes(type)).length
}
