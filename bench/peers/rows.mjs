/** The same rows on every side. */
export function templateRow(n) {
  return {
    id: `tpl_${String(n).padStart(7, '0')}`,
    name: `Template ${n}`,
    description: 'Greets a new customer.',
    definition: { steps: [{ send: 'welcome' }, { wait: 60 }, { send: 'reminder' }] }
  }
}

export const timeOf = (n) => new Date(Date.UTC(2026, 0, 1) + n * 1000)
