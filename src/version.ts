import { readFileSync } from 'node:fs'
import { packageFile } from '../adapters/package-files.js'

/** The release, from package.json. */
export const version: string = JSON.parse(readFileSync(packageFile('package.json'), 'utf8')).version
