/** Known to everybody, so it must never be the way into something real. */
export const demoLogin = { email: 'admin@example.com', password: 'admin123' } as const
