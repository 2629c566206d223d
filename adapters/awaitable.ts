/**
 * A value, or a promise of one, which is a native promise and no other thenable. Awaiting a value that
 * is there would put the rest off for nothing.
 */
export type Awaitable<T> = T | Promise<T>

/** Goes on with a value as soon as it is there, which may be now. */
export function whenThere<T, U>(value: Awaitable<T>, next: (value: T) => Promise<U>): Promise<U>
export function whenThere<T, U>(value: Awaitable<T>, next: (value: T) => Awaitable<U>): Awaitable<U>
export function whenThere<T, U>(
  value: Awaitable<T>,
  next: (value: T) => Awaitable<U>
): Awaitable<U> {
  return value instanceof Promise ? value.then(next) : next(value)
}
